//! What guests try, with the tools that the smallest image has.

use e2e::{Guest, root, servers};

use crate::world::{ECHO, GOOD};

/// How long a guest waits for what is not to come, in seconds.
const SILENCE: u32 = 2;

/// What a guest's page of a server says, or nothing if it gets none.
pub(crate) async fn get(guest: &mut Guest, host: &str) -> Option<String> {
    let answer = guest.exec(&root(&format!("timeout 10 wget -q -O- http://{host}/"))).await;
    let answer = answer.unwrap();
    (answer.exit_code == 0).then(|| answer.stdout.trim_end().to_owned())
}

/// What a guest gets for bytes that it sends to a port, if anything.
pub(crate) async fn send(guest: &mut Guest, address: &str, port: u16, bytes: &[u8]) -> String {
    guest.write("/tmp/bytes", bytes.to_vec()).await.unwrap();
    let script = format!("timeout {SILENCE} nc {address} {port} < /tmp/bytes");
    guest.exec(&root(&script)).await.unwrap().stdout
}

/// A request for a page of `host`, whoever is asked.
pub(crate) fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into_bytes()
}

/// The beginning of TLS with the server `host`.
pub(crate) fn hello(host: &str) -> Vec<u8> {
    let part = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let name = [&[0][..], &part(host.len()), host.as_bytes()].concat();
    let names = [&part(name.len())[..], &name].concat();
    // Without signature algorithms it would be none of a TLS that is still spoken.
    let algorithms = [0, 13, 0, 4, 0, 2, 4, 3];
    let extensions = [&[0, 0][..], &part(names.len()), &names, &algorithms].concat();
    let random = [7; 32];
    let fixed = [&[3, 3][..], &random, &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let body = [&fixed[..], &part(extensions.len()), &extensions].concat();
    let message = [&[1, 0][..], &part(body.len()), &body].concat();
    [&[22, 3, 1][..], &part(message.len()), &message].concat()
}

/// Whether somebody accepts a connection to a port.
pub(crate) async fn connects(guest: &mut Guest, address: &str, port: u16) -> bool {
    let script = format!("timeout {SILENCE} nc -w {SILENCE} {address} {port} < /dev/null");
    guest.exec(&root(&script)).await.unwrap().exit_code == 0
}

/// The ways to an address that are open: a list of `icmp`, `tcp` and `udp`. Asks where
/// [`echoes`] is or what a machine of the world serves. A datagram goes to a closed port, of which
/// the other end tells; that it may not go there is told with a `!`.
pub(crate) async fn ways(guest: &mut Guest, address: &str) -> Vec<String> {
    // All at once, because what gets no answer takes its time.
    let script = format!(
        "(ping -c 1 -W {SILENCE} {address} > /dev/null 2>&1 && echo icmp) & \
         (echo tcp | timeout {SILENCE} nc {address} {ECHO} 2>/dev/null | head -n 1) & \
         (traceroute -n -f 9 -m 9 -q 1 -w {SILENCE} {address} 2>/dev/null | grep ' ms' | \
         grep -qv '!' && \
         echo udp) & wait"
    );
    let said = guest.exec(&root(&script)).await.unwrap().stdout;
    let mut ways: Vec<String> = said.lines().map(str::to_owned).collect();
    ways.sort();
    ways
}

/// All ways.
pub(crate) const ALL: [&str; 3] = ["icmp", "tcp", "udp"];

/// Has a guest repeat what it is told.
pub(crate) async fn echoes(guest: &mut Guest) {
    servers::answer_with(guest, ECHO, "exec cat").await;
}

/// A connection of a guest's that stays open, to somebody who repeats what he is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line;

impl Line {
    /// Connects with the internet.
    pub(crate) async fn out(guest: &mut Guest) -> Self {
        Self::to(guest, GOOD, ECHO).await
    }

    /// Connects.
    pub(crate) async fn to(guest: &mut Guest, address: &str, port: u16) -> Self {
        let script = format!(
            "rm -f /tmp/in /tmp/out /tmp/over; mkfifo /tmp/in; : > /tmp/out; \
             (exec 3<>/tmp/in; nc {address} {port} <&3 >/tmp/out; touch /tmp/over) \
             >/dev/null 2>&1 &"
        );
        guest.root(&script).await;
        assert!(Self.says(guest, "hello").await, "no line to {address}:{port}");
        Self
    }

    /// Says something, whether or not it arrives.
    pub(crate) async fn tell(self, guest: &mut Guest, word: &str) {
        // Where the connection has ended, nobody reads.
        guest.root(&format!("timeout {SILENCE} sh -c 'echo {word} > /tmp/in' || :")).await;
    }

    /// Whether a word comes back before a long time has passed.
    pub(crate) async fn hears(self, guest: &mut Guest, word: &str) -> bool {
        Self::within(guest, word, 15).await
    }

    /// Says something that has to come back.
    pub(crate) async fn says(self, guest: &mut Guest, word: &str) -> bool {
        self.tell(guest, word).await;
        self.hears(guest, word).await
    }

    /// Says something that must not come back.
    pub(crate) async fn is_cut(self, guest: &mut Guest, word: &str) -> bool {
        self.tell(guest, word).await;
        !Self::within(guest, word, SILENCE).await
    }

    async fn within(guest: &mut Guest, word: &str, seconds: u32) -> bool {
        let script = format!(
            "timeout {seconds} sh -c 'until grep -qx {word} /tmp/out; do \
             [ ! -e /tmp/over ] || exit 1; usleep 10000; done'"
        );
        guest.exec(&root(&script)).await.unwrap().exit_code == 0
    }
}
