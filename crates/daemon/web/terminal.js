// The page of a shared terminal.
//
// The token is what stands behind the # of the address, which no browser sends. It leaves the page
// as the first message on the WebSocket and in no other way.

import { FitAddon } from "./addon-fit.mjs";
import { Terminal } from "./xterm.mjs";

/** Font size to begin with, and the smallest to which a terminal of another size is shrunk. */
const FONT = matchMedia("(max-width: 520px)").matches ? 12 : 14;
const FONT_MIN = 5;
/** Milliseconds before the connection is made again: each time twice as many. */
const PAUSE_MIN = 500;
const PAUSE_MAX = 15000;
/** How long the window has to keep its size before the terminal gets it. */
const SETTLED = 120;
/** Bytes of input in one message. */
const PIECE = 32 * 1024;
/** Bytes that may wait to be drawn; then the connection pauses until they are. */
const PENDING_MAX = 8 * 1024 * 1024;

const $ = (id) => document.getElementById(id);
const encoder = new TextEncoder();

const THEME = {
  background: "#0d1015",
  foreground: "#d9dfe7",
  cursor: "#ff9f4a",
  cursorAccent: "#0d1015",
  selectionBackground: "#3d4a5c",
  black: "#1b212a",
  red: "#ff6b6b",
  green: "#5fd38d",
  yellow: "#f2c46d",
  blue: "#6cb1ff",
  magenta: "#d492f0",
  cyan: "#5fd0d8",
  white: "#d9dfe7",
  brightBlack: "#657184",
  brightRed: "#ff8e8e",
  brightGreen: "#86e5ac",
  brightYellow: "#ffdb94",
  brightBlue: "#94c8ff",
  brightMagenta: "#e5b5f8",
  brightCyan: "#8be6ec",
  brightWhite: "#ffffff",
};

// The terminal makes style sheets of its own, which the page's policy takes only with its nonce.
const { nonce } = document.querySelector("script[nonce]");
const createElement = document.createElement.bind(document);
document.createElement = (name, options) => {
  const element = createElement(name, options);
  if (String(name).toLowerCase() === "style") element.nonce = nonce;
  return element;
};

const term = new Terminal({
  cursorBlink: true,
  fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono", monospace',
  fontSize: FONT,
  lineHeight: 1.15,
  scrollback: 10000,
  theme: THEME,
});
const fit = new FitAddon();
term.loadAddon(fit);
term.open($("terminal"));

let socket = null;
/** Session and cursor up to which its output is here. */
let place = null;
/** Whether we may type. */
let writes = false;
/** Size of the shared terminal, and the one that we have asked for. */
let size = null;
let asked = null;
/** Bytes that are not drawn yet, and pieces of old output among them. */
let pending = 0;
let replaying = 0;
/** Old output that is still to come. */
let old = 0;
let pause = PAUSE_MIN;
let retry = null;
let endsAt = null;

function token() {
  return location.hash.slice(1).replace(/^token=/, "");
}

function show(state, label, title, text, button) {
  document.body.dataset.state = state;
  $("state").textContent = label;
  $("title").textContent = title ?? label;
  $("text").textContent = text ?? "";
  $("again").hidden = !button;
  if (button) $("again").textContent = button;
  $("keys").hidden = !(state === "connected" && writes);
  // Nothing that is typed is taken before it can be sent.
  term.options.disableStdin = state !== "connected" || !writes;
}

function connect() {
  clearTimeout(retry);
  retry = null;
  if (socket) return;
  if (!/^[0-9a-f]{64}$/.test(token())) {
    show("ended", "No link", "This link is not complete", "Its last part, after the #, is missing.");
    return;
  }
  show("connecting", "Connecting");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const path = location.pathname.replace(/\/+$/, "");
  const opening = new WebSocket(`${scheme}//${location.host}${path}/ws`);
  opening.binaryType = "arraybuffer";
  socket = opening;
  opening.onopen = () => {
    const wanted = proposed();
    asked = wanted;
    const hello = { type: "auth", token: token(), ...wanted };
    if (place) hello.resume = place;
    opening.send(JSON.stringify(hello));
  };
  opening.onmessage = ({ data }) => {
    if (socket !== opening) return;
    if (typeof data === "string") hear(JSON.parse(data));
    else draw(new Uint8Array(data));
  };
  opening.onclose = () => {
    if (socket === opening) lost();
  };
}

/** Lets go of the connection; what still comes over it is not for us. */
function leave() {
  const leaving = socket;
  socket = null;
  leaving?.close();
}

function hear(said) {
  switch (said.type) {
    case "connected":
      writes = !said.read_only;
      $("name").textContent = said.sandbox;
      document.title = `${said.sandbox} – terminal`;
      $("badge").hidden = writes;
      endsAt = Date.now() + said.expires_in_sec * 1000;
      tellEnd();
      if (said.status === "asleep") {
        show("waking", "Waking", `${said.sandbox} is waking up`, "It was asleep. This takes a moment.");
      }
      break;
    case "session": {
      const goesOn = place && place.created_at === said.created_at && place.cursor === said.cursor;
      if (!goesOn) term.reset();
      place = { created_at: said.created_at, cursor: said.cursor };
      old = said.replay_bytes;
      pause = PAUSE_MIN;
      show("connected", "Connected");
      resized(said);
      askForSize();
      if (writes) term.focus();
      break;
    }
    case "resized":
      resized(said);
      break;
    case "skipped":
      place.cursor += said.bytes;
      old = Math.max(0, old - said.bytes);
      // An escape sequence that was cut off ends here.
      term.write("\x18\x1b[m\r\n[some output came too fast and is left out]\r\n");
      break;
    case "exit":
      place = null;
      ended("Ended", "The terminal has ended", `Its program ended with ${said.exit_code}.`, "Open again");
      break;
    case "error":
      failed(said);
      break;
  }
}

function failed({ code, error, hint }) {
  if (code === "share_not_found") {
    place = null;
    endsAt = null;
    tellEnd();
    ended("Link ended", "This link does not work any more", sentence(error), "Try again");
  } else if (code === "host_overloaded") {
    leave();
    later("Busy", "There is no room at the moment", sentence(error));
  } else {
    ended("Not connected", "No terminal", [error, hint].filter(Boolean).map(sentence).join(" "), "Try again");
  }
}

function sentence(words) {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

function ended(label, title, text, button) {
  leave();
  show("ended", label, title, text, button);
}

function lost() {
  socket = null;
  later("Reconnecting", "The connection was lost", "Trying to connect again.");
}

function later(label, title, text) {
  show("lost", label, title, text, "Connect now");
  // Not all who were put out at once come back at once.
  retry = setTimeout(connect, pause * (0.7 + 0.6 * Math.random()));
  pause = Math.min(pause * 2, PAUSE_MAX);
}

function draw(bytes) {
  place.cursor += bytes.length;
  pending += bytes.length;
  const isOld = old > 0;
  old = Math.max(0, old - bytes.length);
  if (isOld) replaying += 1;
  term.write(bytes, () => {
    pending -= bytes.length;
    if (isOld) replaying -= 1;
    if (pending === 0 && !socket && document.body.dataset.state === "slow") connect();
  });
  if (pending > PENDING_MAX && socket) {
    leave();
    show("slow", "Catching up", "More output than can be shown", "It goes on in a moment.");
  }
}

function send(bytes) {
  if (socket?.readyState !== WebSocket.OPEN) return;
  for (let at = 0; at < bytes.length; at += PIECE) socket.send(bytes.subarray(at, at + PIECE));
}

/** The size that fits into the window. */
function proposed() {
  term.options.fontSize = FONT;
  const { rows, cols } = fit.proposeDimensions() ?? { rows: 24, cols: 80 };
  return { rows: Math.max(rows, 2), cols: Math.max(cols, 10) };
}

function askForSize() {
  const wanted = proposed();
  if (writes && socket?.readyState === WebSocket.OPEN && size) {
    if (wanted.rows !== asked?.rows || wanted.cols !== asked?.cols) {
      asked = wanted;
      socket.send(JSON.stringify({ type: "resize", ...wanted }));
    }
  }
  if (size) drawAt(size, wanted);
}

function resized({ rows, cols }) {
  size = { rows, cols };
  drawAt(size, proposed());
}

/** Shows a terminal of any size; one that is too large is shrunk. */
function drawAt({ rows, cols }, room) {
  const scale = Math.min(room.rows / rows, room.cols / cols, 1);
  term.options.fontSize = scale < 1 ? Math.max(FONT_MIN, Math.floor(FONT * scale * 10) / 10) : FONT;
  if (term.rows !== rows || term.cols !== cols) term.resize(cols, rows);
}

function tellEnd() {
  const left = endsAt === null ? null : Math.max(0, Math.round((endsAt - Date.now()) / 60000));
  const words = (minutes) => {
    if (minutes < 1) return "ends in a moment";
    if (minutes < 120) return `ends in ${minutes} min`;
    return minutes < 2880 ? `ends in ${Math.round(minutes / 60)} h` : `ends in ${Math.round(minutes / 1440)} d`;
  };
  $("ends").textContent = left === null ? "" : words(left);
}

/** What is typed while the key of the page's own bar is held. */
function withControl(data) {
  if ($("ctrl").getAttribute("aria-pressed") !== "true" || data.length !== 1) return data;
  $("ctrl").setAttribute("aria-pressed", "false");
  const code = data.toUpperCase().charCodeAt(0);
  return code >= 0x40 && code < 0x60 ? String.fromCharCode(code & 0x1f) : data;
}

// A terminal answers questions in its output; those in old output were answered long ago.
term.onData((data) => {
  if (writes && replaying === 0) send(encoder.encode(withControl(data)));
});
term.onBinary((data) => {
  if (writes && replaying === 0) send(Uint8Array.from(data, (char) => char.charCodeAt(0)));
});

term.attachCustomKeyEventHandler((event) => {
  const isCopy = event.ctrlKey && !event.altKey && event.code === "KeyC" && term.hasSelection();
  if (isCopy && event.type === "keydown") {
    const text = term.getSelection();
    if (navigator.clipboard) navigator.clipboard.writeText(text).catch(() => {});
    else document.execCommand("copy");
    if (!event.shiftKey) term.clearSelection();
    event.preventDefault();
    return false;
  }
  // The browser's own, which pastes.
  return !(event.ctrlKey && event.shiftKey && event.code === "KeyV");
});

$("again").addEventListener("click", () => {
  pause = PAUSE_MIN;
  connect();
});

for (const button of $("keys").querySelectorAll("button")) {
  // The terminal keeps the focus, and with it the keyboard of a phone.
  button.addEventListener("pointerdown", (event) => event.preventDefault());
  button.addEventListener("click", () => {
    if (button.id === "ctrl") {
      const pressed = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!pressed));
    } else if (button.dataset.arrow) {
      const lead = term.modes.applicationCursorKeysMode ? "\x1bO" : "\x1b[";
      send(encoder.encode(lead + button.dataset.arrow));
    } else {
      send(encoder.encode(button.dataset.key));
    }
    term.focus();
  });
}

let settled = null;
function windowChanged() {
  const view = window.visualViewport;
  if (view) document.body.style.setProperty("--height", `${view.height}px`);
  clearTimeout(settled);
  settled = setTimeout(askForSize, SETTLED);
}
addEventListener("resize", windowChanged);
window.visualViewport?.addEventListener("resize", windowChanged);

// A link that is put into the same window is another one.
addEventListener("hashchange", () => location.reload());
addEventListener("online", () => retry && connect());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && retry) connect();
});
setInterval(tellEnd, 15000);

connect();
