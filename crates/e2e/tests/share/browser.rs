//! The page, as a person sees it.

use std::path::PathBuf;

use e2e::browser::Browser;

use super::*;

/// What the terminal shows.
const SHOWN: &str = "document.querySelector('.xterm-rows').innerText";

fn connected() -> &'static str {
    "document.body.dataset.state === 'connected'"
}

/// Where pictures are kept, if somebody wants to see them.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("BHATTI_PICTURES").map(PathBuf::from)
}

async fn picture(browser: &mut Browser, name: &str) {
    if let Some(directory) = pictures() {
        browser.picture(&directory.join(name)).await;
    }
}

#[tokio::test]
async fn a_person_with_a_link_and_a_browser_has_a_terminal() {
    let mut node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let link = share(&mut guest, &Share::default()).await;
    let (url, token) = (link.url.clone().unwrap(), link.token.clone().unwrap());
    let Some(mut browser) = Browser::start(1100, 700).await else { return };
    browser.open(&url).await;
    browser.until(connected()).await;
    browser.type_line("echo $((6*7))-$(printf 'gr\\303\\274n')").await;
    browser.until(&format!("{SHOWN}.includes('42-grün')")).await;
    assert_eq!(browser.evaluate("document.querySelector('#name').textContent").await, "dev");
    browser.type_line("PS1='dev:\\w\\$ '; clear; uname -a; ls -l / | head -20").await;
    browser.until(&format!("{SHOWN}.includes('Linux dev')")).await;
    picture(&mut browser, "terminal.png").await;

    // The terminal has the size of the window, and follows it.
    let size = |word: &str| format!("({SHOWN}.match(/{word} (\\d+) (\\d+)/) || null)?.slice(1)");
    browser.type_line("clear; echo wide $(stty size)").await;
    let wide = browser.until(&size("wide")).await;
    browser.resize(390, 780).await;
    browser
        .until("parseFloat(getComputedStyle(document.querySelector('#terminal')).width) < 390")
        .await;
    browser
        .until("document.querySelector('.xterm-screen').getBoundingClientRect().width < 390")
        .await;
    browser.type_line("clear; echo narrow $(stty size)").await;
    let narrow = browser.until(&size("narrow")).await;
    let number =
        |value: &serde_json::Value, at: usize| value[at].as_str().unwrap().parse::<u16>().unwrap();
    assert!(number(&narrow, 1) < number(&wide, 1) && number(&wide, 1) > 100, "{wide} {narrow}");
    picture(&mut browser, "narrow.png").await;

    // Nothing went elsewhere, and the token nowhere but into the connection.
    let own = format!("http://{}/_shell/", node.public());
    let socket = format!("ws://{}/_shell/{}/ws", node.public(), link.id);
    for request in &browser.requests {
        let address = request.replace(&format!("#{token}"), "");
        assert!(
            address.starts_with(&own) || address == socket || address == "about:blank",
            "{request}"
        );
        assert!(!address.contains(&token), "{request}");
    }
    assert!(browser.requests.contains(&socket), "{:?}", browser.requests);
    assert_eq!(browser.complaints, Vec::<String>::new());

    browser.resize(1100, 700).await;
    guest.client.unshare(&guest.id, None).await.unwrap();
    browser.until("document.body.dataset.state === 'ended'").await;
    let told = browser.evaluate("document.querySelector('.card').innerText").await;
    assert!(told.as_str().unwrap().contains("revoked"), "{told}");
    picture(&mut browser, "revoked.png").await;
    node.terminate();
}

#[tokio::test]
async fn a_page_comes_back_by_itself_and_repeats_nothing() {
    // The same port again, or the page would look in vain.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config: &'static str = format!("[public]\nlisten = '127.0.0.1:{port}'\n").leak();
    let mut node = Node::with(&Options { config, ..Options::default() });
    let mut guest = Guest::create(&node, "dev").await;
    let link = share(&mut guest, &Share::default()).await;
    let Some(mut browser) = Browser::start(900, 600).await else { return };
    browser.open(link.url.as_deref().unwrap()).await;
    browser.until(connected()).await;
    browser.type_line("echo on''ce").await;
    browser.until(&format!("{SHOWN}.includes('once')")).await;
    node.terminate();
    browser.until("document.body.dataset.state === 'lost'").await;
    picture(&mut browser, "lost.png").await;
    node.restart();
    browser.until(connected()).await;
    browser.type_line("echo tw''ice").await;
    browser.until(&format!("{SHOWN}.includes('twice')")).await;
    let times = browser
        .evaluate(&format!("{SHOWN}.split('\\n').filter(line => line.trim() === 'once').length"))
        .await;
    assert_eq!(times, 1);
}

#[tokio::test]
async fn a_page_for_reading_shows_the_terminal_at_its_own_size() {
    let node = start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut owner = e2e::Terminal::open(&guest, "new=true&rows=50&cols=200").await;
    owner.type_in("PS1='dev$ '; clear; seq -s ' ' 1 60; echo wat''ched\n").await;
    owner.until("watched\r\n").await;
    let link = share(&mut guest, &Share { read_only: true, ..Share::default() }).await;
    let Some(mut browser) = Browser::start(900, 600).await else { return };
    browser.open(link.url.as_deref().unwrap()).await;
    browser.until(connected()).await;
    browser.until(&format!("{SHOWN}.includes('watched')")).await;
    assert_eq!(browser.evaluate("document.querySelector('#badge').hidden").await, false);
    let width = "document.querySelector('.xterm-screen').getBoundingClientRect().width";
    let width = browser.evaluate(width).await.as_f64().unwrap();
    assert!(width > 400.0 && width < 900.0, "{width}");
    browser.click("#terminal").await;
    browser.type_line("echo str''ay").await;
    owner.type_in("echo do''ne\n").await;
    let seen = owner.until("done\r\n").await;
    assert!(!seen.contains("stray"), "{seen}");
    browser.until(&format!("{SHOWN}.includes('done')")).await;
    picture(&mut browser, "watched.png").await;
    assert_eq!(browser.complaints, Vec::<String>::new());
}
