use super::*;

fn sample(start: &Start, layers: Vec<LayerNumbers>) -> String {
    sample_over(BaseNumbers::One(6), start, layers)
}

fn sample_over(base: BaseNumbers, start: &Start, layers: Vec<LayerNumbers>) -> String {
    line(base, start, layers, Vec::new())
}

fn line(
    base: BaseNumbers,
    start: &Start,
    layers: Vec<LayerNumbers>,
    volumes: Vec<VolumeNumbers>,
) -> String {
    let numbers = Numbers {
        qmp: 3,
        agent: 4,
        notice: 13,
        ram: 5,
        base,
        modules: 7,
        scratch: 8,
        nic: Some(NicNumbers::Tap(15)),
        layers,
        volumes,
    };
    let machine = Machine { cpus: 2, memory_mib: 256 };
    arguments(machine, Accelerator::Tcg, 256 << 20, false, &numbers, start).join(" ")
}

fn two_layers() -> Vec<LayerNumbers> {
    vec![LayerNumbers { number: 3, fds: vec![11] }, LayerNumbers { number: 7, fds: vec![12, 14] }]
}

/// The devices, as they are whatever is in the files.
fn devices(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let pairs = words.windows(2).filter(|w| matches!(w[0], "-device" | "-machine" | "-cpu"));
    let device = |w: &[&str]| match w[1].split_once("drive=") {
        Some((kind, rest)) => format!("{kind}{}", rest.split_once(',').unwrap().1),
        None => w[1].to_owned(),
    };
    pairs.map(device).collect()
}

#[test]
fn what_a_volume_holds_makes_no_difference_to_the_devices_and_how_many_there_are_does() {
    let cold = Start::Cold { kernel: 9, initramfs: 10, command_line: "quiet".into() };
    let awaited = [false, true].map(|read_only| VolumeNumbers::Awaited { read_only }).to_vec();
    let template = line(BaseNumbers::One(6), &cold, vec![], awaited);
    assert!(template.contains("driver=null-co,node-name=nothing-0,size=2199023255552"));
    assert!(
        template.contains("read-zeroes=on,read-only=on -device virtio-blk-device,drive=nothing-1")
    );
    let kept = |read_only| VolumeNumbers::Kept { raw: 30, layers: two_layers(), read_only };
    let child = line(
        BaseNumbers::One(6),
        &Start::IncomingDeferred,
        two_layers(),
        vec![kept(false), kept(true)],
    );
    assert_eq!(devices(&template), devices(&child));
    let without = sample(&cold, vec![]);
    assert_eq!(devices(&template)[..devices(&without).len()], devices(&without));
    assert!(child.contains("node-name=volume-0-layer-7,backing=volume-0-layer-3,read-only=off"));
    assert!(!child.contains("backing=volume-1-layer-3,read-only=off"));
    assert!(child.contains("drive=volume-1-layer-7,serial=bhatti-volume-1,id=volume1"));
}

#[test]
fn parent_and_child_have_the_same_devices_in_the_same_order() {
    let cold = Start::Cold { kernel: 9, initramfs: 10, command_line: "quiet".into() };
    assert_eq!(
        devices(&sample(&cold, vec![])),
        devices(&sample(&Start::IncomingDeferred, two_layers()))
    );
    let awaited = sample(&Start::Awaited { disk_bytes: 1 << 30 }, vec![]);
    assert_eq!(devices(&sample(&cold, vec![])), devices(&awaited));
}

#[test]
fn a_disk_of_several_files_is_the_same_device() {
    let several = BaseNumbers::Several { description: 6, files: vec![21, 22] };
    let start = Start::IncomingDeferred;
    let (one, several) = (sample(&start, two_layers()), sample_over(several, &start, two_layers()));
    assert_eq!(
        one.replace("driver=raw,node-name=base", "driver=vmdk,node-name=base"),
        several.replace("-add-fd fd=21,set=21 -add-fd fd=22,set=22 ", "")
    );
}

#[test]
fn without_a_disk_of_its_own_a_monitor_can_write_nothing() {
    let line = sample(&Start::Awaited { disk_bytes: 1 << 30 }, vec![]);
    assert!(line.contains("node-name=scratch0,read-only=on"));
    assert!(line.contains("driver=null-co,node-name=nothing,size=1073741824"));
    assert!(line.contains("drive=nothing,serial=bhatti-scratch"));
    assert!(line.contains("-incoming defer"));
}

#[test]
fn a_network_of_the_monitor_s_own_is_closed_unless_it_is_said_to_be_open() {
    assert!(user_network(false).starts_with("user,id=net,restrict=on,"));
    assert!(user_network(true).starts_with("user,id=net,restrict=off,"));
    let same = |open| user_network(open).replace("=on,ipv4", "=off,ipv4");
    assert_eq!(same(true), same(false));
    for (open, word) in [(true, "restrict=off"), (false, "ipv6=off")] {
        let mut argv = Argv::default();
        network(&mut argv, NicNumbers::User { open });
        let line = argv.0.join(" ");
        assert!(line.contains(word), "{line}");
        // Nothing leads in, and no file of the host is served.
        for way in ["hostfwd", "guestfwd", "tftp", "smb", "tap"] {
            assert!(!line.contains(way), "{line}");
        }
    }
    let mut tap = Argv::default();
    network(&mut tap, NicNumbers::Tap(9));
    let mut user = Argv::default();
    network(&mut user, NicNumbers::User { open: false });
    assert_eq!(tap.0[2..], user.0[2..], "the device differs");
}

#[test]
fn only_the_top_layer_is_writable_and_nothing_is_opened_by_path() {
    let line = sample(&Start::Incoming { state: 9 }, two_layers());
    assert!(line.contains("node-name=scratch0,read-only=on"));
    assert!(line.contains("node-name=layer-3,backing=scratch0,read-only=on"));
    assert!(line.contains("node-name=layer-7,backing=layer-3,read-only=off"));
    assert!(line.contains("drive=layer-7,serial=bhatti-scratch"));
    for (_, rest) in line.match_indices("filename=").map(|(at, _)| line.split_at(at + 9)) {
        assert!(rest.starts_with("/dev/fdset/") || rest.starts_with("/dev/urandom"), "{rest}");
    }
}
