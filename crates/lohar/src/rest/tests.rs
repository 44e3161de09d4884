use proptest::prelude::*;
use proto::frame::FrameKind;
use proto::message::{Detach, Exec, Exited, JobOutput, Request, Response};

use super::*;
use crate::testing::{Guest, ask, hear, next, open, shell};

fn job(id: usize, state: JobState, argument: &str) -> JobInfo {
    JobInfo {
        id: format!("j{id}"),
        argv: vec![argument.to_owned()],
        pid: 1,
        started_at: i64::try_from(id).unwrap(),
        state,
        output_start: 0,
        output_end: 0,
        keep_awake: false,
    }
}

fn states() -> impl Strategy<Value = JobState> {
    let exited = Exited { code: 0, signal: None, timed_out: false };
    prop_oneof![
        Just(JobState::Running),
        Just(JobState::Lost),
        (0..50_i64).prop_map(move |at| JobState::Exited { exited: exited.clone(), at }),
    ]
}

proptest! {
    #[test]
    fn jobs_that_fit_are_told_and_those_that_ended_first_are_not(
        states in proptest::collection::vec((states(), "[\\x00-\\x7f]{0,40}"), 0..30),
        room in 0_usize..5000,
    ) {
        let jobs: Vec<JobInfo> =
            states.into_iter().enumerate().map(|(id, (state, text))| job(id, state, &text)).collect();
        let told = within(room, jobs.clone());
        prop_assert!(told.is_empty() || size(&told) <= room);
        if size(&jobs) <= room {
            prop_assert_eq!(&told, &jobs);
        }
        prop_assert!(told.is_sorted_by_key(|job| job.started_at));
        let ended = |job: &JobInfo| match job.state {
            JobState::Exited { at, .. } => Some(at),
            JobState::Lost => Some(job.started_at),
            JobState::Running => None,
        };
        let left_out = jobs.iter().filter(|job| !told.contains(job));
        for out in left_out {
            // Whatever is told runs still or ended no earlier.
            for kept in &told {
                let order = ended(kept).is_none_or(|at| ended(out).is_some_and(|out| out <= at));
                prop_assert!(order, "{out:?} {kept:?}");
            }
        }
    }
}

#[tokio::test]
async fn any_number_of_jobs_fits_into_the_answer() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let now = tokio::time::Instant::now();
    let request = Exec { argv: vec!["\u{1}".repeat(5000)], ..Exec::default() };
    let waiting: Vec<_> =
        (0..1000).map(|_| crate::jobs::reserve(&guest.agent, &request, 1, now)).collect();
    let answer = ask(&host, &Request::Rest { hang_up: true }).await;
    let Response::Resting(resting) = answer else { panic!("{answer:?}") };
    assert!((100..1000).contains(&resting.jobs.len()), "{}", resting.jobs.len());
    drop(waiting);
    let answer = ask(&host, &Request::Rest { hang_up: true }).await;
    let Response::Resting(resting) = answer else { panic!("{answer:?}") };
    assert_eq!(resting.jobs, []);
}

#[tokio::test]
async fn after_a_sync_nothing_is_in_memory_only() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let exec = Exec { detach: Some(Detach::default()), ..shell("echo written; exec sleep 1000") };
    let Response::Started { job, .. } = ask(&host, &Request::Exec(exec)).await else { panic!() };
    let follow = JobOutput { job: job.clone(), offset: 0, follow: true };
    let mut follow = open(&host, &Request::JobOutput(follow)).await;
    assert_eq!(hear(&mut follow).await, Response::JobOutput { start: 0 });
    assert_eq!(next(&mut follow).await, Ok((FrameKind::Stdout, b"written\n".to_vec())));
    assert_eq!(ask(&host, &Request::Sync).await, Response::Done);
    let segment = guest.path().join("var/log/bhatti/jobs").join(&job).join("0".repeat(20));
    assert!(std::fs::read(segment).unwrap().ends_with(b"written\n"));
    assert_eq!(ask(&host, &Request::Kill { id: job, signal: 9 }).await, Response::Done);
}
