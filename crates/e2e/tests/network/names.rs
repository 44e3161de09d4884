//! The internet's name server.

use tokio::net::UdpSocket;

/// Names and their addresses. The last one is for whoever would be led into the LAN.
const NAMES: [(&str, [u8; 4]); 3] = [
    ("good.example", [203, 0, 113, 5]),
    ("other.example", [203, 0, 113, 6]),
    ("rebind.example", [192, 168, 77, 7]),
];

pub(crate) async fn answer(socket: UdpSocket) {
    let mut question = [0; 2000];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        if let Some(answer) = answer_to(&question[..length]) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// The answer to a message with one question; none to anything else.
fn answer_to(message: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = message.get(12..at + 4)?;
    let is_for_address = message.get(at..at + 2)? == [0, 1];
    let name = labels.join(".");
    let address = NAMES.iter().find_map(|(known, address)| (*known == name).then_some(address));
    let found = address.filter(|_| is_for_address);
    let code = if address.is_some() { 0x80 } else { 0x83 };
    let mut answer = message[..2].to_vec();
    answer.extend([0x85, code, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = found {
        // The name of the question, an address of the internet, valid for a minute.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    Some(answer)
}
