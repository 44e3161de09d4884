//! What the larger tiers are for works in them.

use std::env;

use e2e::{Guest, Node};

use super::sandbox_of;

/// Set by `make test-tiers`: a tier that is missing is a failure then.
const WANTED: &str = "BHATTI_TEST_TIERS";

/// Runs `test` in a sandbox of a tier, if that has been prepared; says loudly if not.
async fn in_tier(tier: &str, disk_size_mb: u64, test: impl AsyncFnOnce(&Node, &mut Guest)) {
    let node = Node::start();
    if !node.data().join("images/names").join(tier).exists() {
        assert!(env::var_os(WANTED).is_none(), "the image {tier} has not been prepared");
        eprintln!("NOT TESTED: the tier {tier}, which has not been prepared; run: make test-tiers");
        return;
    }
    let mut guest = sandbox_of(&node, tier, 1024, disk_size_mb).await;
    test(&node, &mut guest).await;
}

#[tokio::test]
async fn node_runs_and_builds() {
    in_tier("node", 2048, async |_, guest| {
        let version = guest.sh("node --version").await;
        let major: u32 =
            version.trim_start_matches('v').split('.').next().unwrap().parse().unwrap();
        assert!(major >= 18, "{version}");
        guest.sh("npm --version && git --version && python3 -c 'print(1)'").await;
        let script = "cd /workspace && npm init --yes >/dev/null && mkdir -p node_modules/own && \
                      echo 'module.exports = 42' > node_modules/own/index.js && \
                      node -e 'console.log(require(\"own\"))'";
        assert_eq!(guest.sh(script).await, "42");
        let compile = "echo 'int main(void) { return 3; }' > /tmp/x.c && cc -o /tmp/x /tmp/x.c; \
                       /tmp/x; echo $?";
        assert_eq!(guest.sh(compile).await, "3");
    })
    .await;
}

#[tokio::test]
async fn docker_runs_containers_on_its_bridge_over_its_overlay() {
    in_tier("docker", 4096, async |node, guest| {
        assert_eq!(guest.sh("systemctl is-active docker").await, "active");
        assert_eq!(guest.sh("docker info --format '{{.Driver}}'").await, "overlay2");
        // A static program, from the smallest image that there is.
        let mut small = Guest::create(node, "small").await;
        let part = api::client::FilePart::default();
        let busybox = small.read("/bin/busybox", part).await.unwrap();
        small.destroy().await;
        guest.write("/tmp/busybox", busybox).await.unwrap();
        guest
            .sh("cd /tmp && mkdir -p tree/bin tree/www && install busybox tree/bin/busybox && \
                 for name in sh httpd ip; do ln -s busybox tree/bin/$name; done && \
                 echo from-the-container > tree/www/index.html && \
                 tar -C tree -cf tree.tar . && docker import tree.tar hello")
            .await;
        assert_eq!(guest.sh("docker run --rm hello /bin/busybox echo hello").await, "hello");
        guest
            .sh("docker run --detach --name web --publish 8080:80 hello \
                 /bin/busybox httpd -f -p 80 -h /www")
            .await;
        let by_port = "curl --silent --retry 20 --retry-all-errors --retry-delay 1 \
                       http://127.0.0.1:8080/";
        assert_eq!(guest.sh(by_port).await, "from-the-container");
        let address = "docker inspect --format '{{.NetworkSettings.IPAddress}}' web";
        let address = guest.sh(address).await;
        assert!(address.starts_with("172.17."), "{address}");
        assert_eq!(
            guest.sh(&format!("curl --silent http://{address}/")).await,
            "from-the-container"
        );
        // Through the agent too, in a copy that has been on disk.
        let mut copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
        copy.stop().await;
        assert_eq!(copy.sh(by_port).await, "from-the-container");
        let ports = copy.client.ports(&copy.id).await.unwrap();
        assert!(ports.iter().any(|port| port.container_port == 8080), "{ports:?}");
        assert_eq!(copy.sh("docker exec web /bin/busybox echo in").await, "in");
        // The one that was copied goes on, asleep or not.
        guest.stop().await;
        for machine in [&mut copy, &mut *guest] {
            assert_eq!(machine.sh("docker run --rm hello /bin/busybox echo more").await, "more");
            assert_eq!(machine.sh(by_port).await, "from-the-container");
        }
    })
    .await;
}

/// Renders a page with Playwright in the browser that runs, and looks at a pixel of what came out.
const RENDER: &str = "
const { chromium } = require('/usr/local/lib/node_modules/playwright-core');
(async () => {
  const browser = await chromium.connectOverCDP('http://127.0.0.1:9222', { timeout: 100000 });
  const page = await browser.newPage({ viewport: { width: 320, height: 200 } });
  await page.setContent('<title>ok</title><body style=\"background:#0080ff\"><h1>hello</h1>');
  const png = await page.screenshot({ path: '/tmp/page.png' });
  const pixel = await page.evaluate(async (data) => {
    const image = new Image();
    image.src = 'data:image/png;base64,' + data;
    await image.decode();
    const context = Object.assign(document.createElement('canvas'), { width: 320, height: 200 })
      .getContext('2d');
    context.drawImage(image, 0, 0);
    return [...context.getImageData(300, 180, 1, 1).data].join();
  }, png.toString('base64'));
  console.log(await page.title(), pixel);
  await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
";

const RENDERED: &str = "ok 0,128,255,255";

/// Microseconds of a processor that the browser has had.
const SPENT: &str =
    "sed -n 's/^usage_usec //p' /sys/fs/cgroup/system.slice/chromium.service/cpu.stat";

#[tokio::test]
async fn the_browser_answers_and_renders_pages_and_does_nothing_by_itself() {
    in_tier("browser", 2048, async |node, guest| {
        let version = "curl --silent --fail http://127.0.0.1:9222/json/version";
        let told = guest.sh(version).await;
        assert!(told.contains("Chrome/") && told.contains("webSocketDebuggerUrl"), "{told}");
        assert_eq!(guest.sh("systemctl is-active chromium").await, "active");
        let spent = guest.sh(&format!("{SPENT}; sleep 3; {SPENT}")).await;
        let (before, after) = spent.split_once('\n').unwrap();
        let spent = after.parse::<u64>().unwrap() - before.parse::<u64>().unwrap();
        assert!(spent < 1_000_000, "{spent} µs in 3 s");
        guest.write("/tmp/render.js", RENDER.as_bytes().to_vec()).await.unwrap();
        assert_eq!(guest.sh("node /tmp/render.js").await, RENDERED);

        let mut copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
        copy.stop().await;
        for machine in [&mut copy, &mut *guest] {
            assert_eq!(machine.sh(version).await, told, "it is another one");
        }
        assert_eq!(copy.sh("node /tmp/render.js").await, RENDERED);
        copy.root("systemctl restart chromium").await;
        let again = copy.sh(version).await;
        assert!(again.contains("webSocketDebuggerUrl") && again != told, "{again}");
    })
    .await;
}

/// Prints how many colours a screenshot has, and says hello to the screen's web page as its client.
const LOOK: &str = r"
import socket, struct, sys, zlib
png = open('/tmp/screen.png', 'rb').read()
at, data = 8, b''
while at < len(png):
    length, kind = struct.unpack('>I4s', png[at:at + 8])
    body = png[at + 8:at + 8 + length]
    if kind == b'IHDR':
        width, height, depth, colour = struct.unpack('>IIBB', body[:10])
    if kind == b'IDAT':
        data += body
    at += length + 12
assert (depth, colour) == (8, 2), (depth, colour)
raw, stride, before, colours = zlib.decompress(data), width * 3, bytes(width * 3), set()
for y in range(height):
    kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
    for x in range(stride):
        a = line[x - 3] if x > 2 else 0
        b = before[x]
        c = before[x - 3] if x > 2 else 0
        if kind == 1: add = a
        elif kind == 2: add = b
        elif kind == 3: add = (a + b) // 2
        elif kind == 4:
            p = a + b - c
            add = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        else: add = 0
        line[x] = (line[x] + add) & 255
    colours.update(bytes(line[x:x + 3]) for x in range(0, stride, 3))
    before = line
web = socket.create_connection(('127.0.0.1', 6080))
web.sendall(b'GET /websockify HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
            b'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n'
            b'Sec-WebSocket-Protocol: binary\r\n\r\n')
said = b''
while b'RFB 003.' not in said:
    more = web.recv(4096)
    assert more, said
    said += more
print(width, height, len(colours) > 8)
";

const TYPE: &str = "DISPLAY=:0 xdotool type 'echo typed > /tmp/typed\n'; \
                    until [ -s /tmp/typed ]; do sleep 0.1; done";

#[tokio::test]
async fn the_computer_shows_a_desktop() {
    in_tier("computer", 2048, async |node, guest| {
        guest.write("/tmp/look.py", LOOK.as_bytes().to_vec()).await.unwrap();
        let mut copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
        copy.stop().await;
        for machine in [&mut *guest, &mut copy] {
            assert_eq!(machine.sh("screen-size; active-window").await, "1280 800\nxterm");
            assert!(machine.sh("list-windows").await.contains(" xterm"));
            machine.sh("screenshot /tmp/screen.png").await;
            assert_eq!(machine.sh("python3 /tmp/look.py").await, "1280 800 True");
            let page = "curl --silent --fail http://127.0.0.1:6080/vnc.html";
            assert!(machine.sh(page).await.contains("noVNC"));
            // What is typed on the screen arrives there.
            machine.sh(TYPE).await;
        }
    })
    .await;
}
