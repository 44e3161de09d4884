//! What an owner may change of a sandbox that exists.

use std::sync::Arc;

use super::{Driver, Phase};
use crate::{
    Error, Kind, Result, admission,
    model::{Edit, NetworkSpec, Spec, StoppedBy},
    record::{Record, State},
};

impl Driver {
    /// Applies `edit`, wholly or not at all. The guest keeps its host name.
    pub(super) async fn edit(&mut self, edit: &Edit) -> Result<()> {
        edited(&self.record, edit)?;
        if edit.keep_hot == Some(true) && self.sleeps_by_itself() {
            self.wake().await?;
        }
        let next = edited(&self.record, edit)?;
        if next == self.record {
            // What an earlier edit wrote down may not hold yet.
            if edit.egress.is_some() || edit.caps.is_some() {
                self.node.networking.changed(&self.record).await?;
            }
            return Ok(());
        }
        let renamed = next.name != self.record.name;
        let node = Arc::clone(&self.node);
        let _naming = if renamed { Some(node.naming.lock().await) } else { None };
        if renamed && node.registry.has_name(&next.owner, &next.name) {
            let message = format!("a sandbox named {:?} exists", next.name.as_str());
            return Err(Error::new(Kind::NameTaken, message).hint("choose another name"));
        }
        let next = Record { generation: next.generation + 1, ..next };
        node.store.update_sandbox(&next).await?;
        let before = std::mem::replace(&mut self.record, next);
        if renamed {
            node.registry.rename(&self.record.id, &before.owner, &before.name, &self.record.name);
        }
        self.show_again();
        let traffic = self.record.spec.network != before.spec.network;
        if !renamed && !traffic {
            return Ok(());
        }
        match node.networking.changed(&self.record).await {
            // Its policy holds; that others find it by its new name can wait.
            Err(error) if !traffic => {
                tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                    "the name server still knows an old name");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Whether it sleeps though its owner has not stopped it.
    fn sleeps_by_itself(&self) -> bool {
        match &self.phase {
            Phase::Warm(_) => true,
            Phase::Cold => {
                matches!(self.record.state, State::Stopped { by: StoppedBy::Idleness, .. })
            }
            Phase::Beginning | Phase::Hot(_) | Phase::Failed | Phase::Gone => false,
        }
    }
}

/// What the record becomes.
fn edited(record: &Record, edit: &Edit) -> Result<Record> {
    let mut next = record.clone();
    if let Some(name) = &edit.name {
        next.name = name.parse()?;
    }
    let policy = &mut next.policy;
    policy.keep_hot = edit.keep_hot.unwrap_or(policy.keep_hot);
    policy.idle.warm = edit.idle_warm.unwrap_or(policy.idle.warm);
    policy.idle.cold = edit.idle_cold.unwrap_or(policy.idle.cold);
    if !edit.labels_add.is_empty() || !edit.labels_remove.is_empty() {
        let mut labels = record.spec.labels.clone();
        labels.retain(|key, _| !edit.labels_remove.contains(key));
        labels.extend(edit.labels_add.clone());
        admission::check_labels(&labels)?;
        next.spec = Arc::new(Spec { labels, ..Spec::clone(&record.spec) });
    }
    let was = &record.spec.network;
    let network = NetworkSpec {
        isolated: was.isolated,
        egress: edit.egress.clone().unwrap_or_else(|| was.egress.clone()),
        caps: edit.caps.unwrap_or(was.caps),
    };
    if network != *was {
        if was.isolated {
            let message = format!("{} has no network", record.name);
            return Err(Error::new(Kind::InvalidRequest, message)
                .hint("make another sandbox: whether there is a network is decided at the start"));
        }
        next.spec = Arc::new(Spec { network, ..Spec::clone(&next.spec) });
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use base::ids::UserId;

    use super::*;
    use crate::model::{IdleLimit, IdlePolicy, Policy};

    fn record() -> Record {
        let mut record = crate::testing::record(&UserId::random(), "box");
        let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        record.spec = Arc::new(Spec { labels: labels.into(), ..Spec::clone(&record.spec) });
        let warm = Some(IdleLimit::After(5));
        record.policy = Policy { keep_hot: true, idle: IdlePolicy { warm, cold: None } };
        record
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let record = record();
        assert_eq!(edited(&record, &Edit::default()).unwrap(), record);
        let edit = Edit {
            name: Some("other".to_owned()),
            idle_cold: Some(Some(IdleLimit::Never)),
            ..Edit::default()
        };
        let next = edited(&record, &edit).unwrap();
        assert_eq!(next.name.as_str(), "other");
        assert_eq!(next.policy.idle.cold, Some(IdleLimit::Never));
        assert_eq!((next.policy.keep_hot, next.policy.idle.warm), (true, record.policy.idle.warm));
        assert_eq!(next.spec, record.spec);
        let edit = Edit { keep_hot: Some(false), idle_warm: Some(None), ..Edit::default() };
        assert_eq!(edited(&record, &edit).unwrap().policy, Policy::default());
    }

    #[test]
    fn labels_are_added_replaced_and_removed_within_what_a_create_may_have() {
        let edit = Edit {
            labels_add: [("b".to_owned(), "3".to_owned()), ("c".to_owned(), String::new())].into(),
            labels_remove: vec!["a".to_owned(), "nothing".to_owned()],
            ..Edit::default()
        };
        let next = edited(&record(), &edit).unwrap();
        let labels = [("b".to_owned(), "3".to_owned()), ("c".to_owned(), String::new())];
        assert_eq!(next.spec.labels, labels.into());
        let many = (0..15).map(|n| (format!("n{n}"), String::new())).collect();
        let too_many = Edit { labels_add: many, ..Edit::default() };
        assert_eq!(edited(&record(), &too_many).unwrap_err().kind, Kind::InvalidRequest);
        let bad = Edit { labels_add: [("ü".to_owned(), String::new())].into(), ..Edit::default() };
        assert_eq!(edited(&record(), &bad).unwrap_err().kind, Kind::InvalidRequest);
        let bad = Edit { name: Some("../x".to_owned()), ..Edit::default() };
        assert_eq!(edited(&record(), &bad).unwrap_err().kind, Kind::InvalidName);
    }
}
