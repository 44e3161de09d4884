//! Servers in sandboxes.

use crate::{Guest, root};

/// Serves the files of `/srv` on a port.
pub async fn serve(guest: &mut Guest, port: u16) {
    let script =
        format!("mkdir -p /srv; echo hello > /srv/index.html; httpd -p 127.0.0.1:{port} -h /srv");
    guest.root(&script).await;
}

/// Answers every connection to a port with what a script does on stdin and stdout.
///
/// # Panics
/// If it cannot.
pub async fn answer_with(guest: &mut Guest, port: u16, script: &str) {
    let file = format!("/tmp/serve-{port}");
    guest
        .write(&file, format!("#!/bin/sh\n{script}\n").into_bytes())
        .await
        .expect("the script is written");
    let listen = format!("chmod +x {file}; nc -ll -p {port} -e {file}");
    guest.detach(&root(&listen)).await;
    let hex = format!("{port:04X}");
    guest
        .sh(&format!(
            "until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':{hex} .* 0A'; do usleep 1000; done"
        ))
        .await;
}
