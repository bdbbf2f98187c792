// Fills the status page. Whatever comes from the daemon is set as text.
"use strict";

const byId = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token");

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const number = (value) => Number(value).toLocaleString("en").replaceAll(",", "\u202f");

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

const time = (text) => new Date(text).toLocaleString();

async function ask(path, options) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { headers, ...options });
  if (response.status === 401) {
    token = prompt("Token of the daemon:");
    if (!token) throw new Error("a token is needed");
    sessionStorage.setItem("token", token);
    return ask(path, options);
  }
  if (!response.ok) throw new Error((await response.json()).detail);
  return response;
}

function memberRow(member) {
  const lag = member.lag ? `${number(member.lag.transactions)} transactions, ${size(member.lag.bytes)}` : "–";
  const why = [member.reason, member.outlook].filter(Boolean).join("; ");
  return element("tr", {},
    element("td", {}, member.name),
    element("td", { class: member.state }, member.state),
    element("td", {}, element("span", { class: "mono" }, `${member.kind} ${member.where}`),
      why ? element("div", { class: "dim" }, why) : null),
    element("td", {}, member.latency_ms === null ? "–" : `${member.latency_ms.toFixed(1)} ms`),
    element("td", {}, lag));
}

function recoveryLine(recovery) {
  if (!recovery || recovery.state !== "running") return null;
  const bar = element("progress", { max: Math.max(recovery.total.bytes, 1), value: recovery.done.bytes });
  const left = recovery.time_left_s === null ? "" : `, ${recovery.time_left_s} s left`;
  const text = `recovering ${recovery.member}: ${recovery.phase}, ${size(recovery.done.bytes)} of `
    + `${size(recovery.total.bytes)}, ${size(Math.round(recovery.bytes_per_s))}/s${left}`;
  return element("div", {}, element("div", {}, text), bar);
}

function scrubLine(array) {
  const scrub = array.last_scrub;
  if (!scrub) return null;
  const mended = scrub.mended.length ? `; mended since: ${scrub.mended.join(", ")}` : "";
  const text = `last scrub ${time(scrub.ended)}: ${number(scrub.transactions)} transactions, `
    + `${number(scrub.differences)} differences${mended}`;
  const advice = scrub.advice.map((line) => element("li", {}, line));
  return element("div", {}, element("div", { class: "dim" }, text),
    array.attention ? element("div", { class: "warning" }, array.attention) : null,
    advice.length ? element("ul", {}, ...advice) : null);
}

function arraySection(array) {
  const head = array.head ? `head ${array.head.tid}${array.head.time ? ` (${time(array.head.time)})` : ""}` : "empty";
  const rows = array.members.map(memberRow);
  const titles = ["member", "state", "where", "latency", "lacks"].map((title) => element("th", {}, title));
  return element("section", {},
    element("h2", {}, `${array.name} `, element("span", { class: array.state }, array.state)),
    element("div", {}, array.line),
    element("div", { class: "dim" }, `${array.addresses.join(", ")} · epoch ${array.epoch} since ${time(array.since)} · ${head}`),
    element("div", { class: "dim" }, `${number(array.objects)} objects, ${size(array.bytes)} · ${array.clients} clients · `
      + `${array.loads_per_s.toFixed(0)} loads/s · ${array.commits_per_s.toFixed(1)} commits/s`),
    element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows)),
    recoveryLine(array.recovery),
    scrubLine(array),
    array.next ? element("p", {}, "Next: ", element("code", {}, array.next)) : null);
}

async function refresh() {
  try {
    const status = await (await ask("/v1/status")).json();
    const arrays = await (await ask("/v1/arrays")).json();
    byId("daemon").textContent = `${status.version}, pid ${status.pid}, since ${time(status.started)}`;
    byId("arrays").replaceChildren(...arrays.map(arraySection));
  } catch (error) {
    byId("arrays").replaceChildren(element("p", { class: "error" }, `no answer: ${error.message}`));
  }
  setTimeout(refresh, 2000);
}

// With fetch, because EventSource cannot send a token.
async function follow() {
  let last = null;
  for (;;) {
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      if (last !== null) headers["Last-Event-ID"] = last;
      const reader = (await ask("/v1/events", { headers })).body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
          if (!data) continue;
          const event = JSON.parse(data);
          last = String(event.id);
          show(event);
        }
      }
    } catch (error) { /* the daemon is away; ask again below */ }
    await new Promise((done) => setTimeout(done, 3000));
  }
}

function show(event) {
  const list = byId("events");
  if (!list.dataset.filled) { list.replaceChildren(); list.dataset.filled = "yes"; }
  list.prepend(element("li", {}, element("span", { class: "dim" }, `${time(event.time)} ${event.array || ""} `),
    element("span", { class: event.level }, event.message)));
  while (list.children.length > 50) list.lastChild.remove();
}

refresh().then(follow);
