"use strict";

const INTERVAL = 2000; // ms
const ANSWER_TIMEOUT = 5000; // ms; after that the page says that the router does not answer
const HEADROOM = 1.35; // height of a low plot by its highest value: leaves space for the label
const MAX_ROWS = 200; // that a table shows at a time; the search finds the other rules
// How many errors and denials the router keeps: as in its source, which a test compares.
const MAX_ERRORS = 20;
const MAX_DENIED = 50;

const byId = (id) => document.getElementById(id);

// Everything that comes from the router goes through textContent: clients choose some of it.
function put(id, text) {
  byId(id).textContent = text;
}

function element(name, text, style) {
  const made = document.createElement(name);
  made.textContent = text;
  if (style) made.className = style;
  return made;
}

function list(id, texts) {
  byId(id).replaceChildren(...texts.map((text) => element("li", text)));
}

function table(id, rows, empty) {
  const body = byId(id).tBodies[0];
  if (rows.length === 0) {
    const cell = element("td", empty, "empty");
    cell.colSpan = byId(id).tHead.rows[0].cells.length;
    const row = document.createElement("tr");
    row.append(cell);
    body.replaceChildren(row);
    return;
  }
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(([text, style]) => element("td", text, style)));
    return row;
  }));
}

function bytes(amount) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let index = 0;
  while (amount >= 1024 && index < units.length - 1) {
    amount /= 1024;
    index += 1;
  }
  return `${amount.toFixed(index === 0 || amount >= 100 ? 0 : 1)} ${units[index]}`;
}

function duration(seconds) {
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor((seconds % 86400) / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

function clock(unix) {
  return new Date(unix * 1000).toISOString().slice(0, 19).replace("T", " ") + "Z";
}

let pod = "";
let release = "";

// Problems come first, each with the time since when; only a router that serves its clients is green.
function showVerdict(text, style, problems) {
  put("verdict", text);
  byId("verdict").className = style;
  byId("problems").replaceChildren(...problems.map((each) => {
    const item = element("li", each.text, each.blocks ? "bad" : "warn");
    if (each.since) item.append(element("time", ` since ${clock(each.since)} (${duration(Date.now() / 1000 - each.since)})`));
    return item;
  }));
  byId("problems").hidden = problems.length === 0;
  document.title = `${text}: ${pod ? `${pod}, ` : ""}egress router${release ? ` ${release}` : ""}`;
}

function showFacts(status) {
  const outside = status.interface;
  put("mode", status.mode);
  put("pod", status.pod || "");
  put("release", status.version);
  put("version", `version ${status.version}`);
  put("source", outside ? outside.addresses.join(", ") : "that of the pod");
  put("gateway", outside
    ? outside.gateways.map((each) => each.address + (each.answers ? "" : " (silent)")).join(", ") || "none"
    : "none");
  put("open", status.now.open);
  put("requests", status.now.requests.toFixed(1));
  put("sent", `${bytes(status.now.sent_bytes)}/s`);
  put("received", `${bytes(status.now.received_bytes)}/s`);
  put("workers", status.workers.length
    ? `${status.workers.filter((each) => each.serves).length} of ${status.workers.length}`
    : "none needed");
  put("uptime", duration(Date.now() / 1000 - status.started));
}

function showReload(reload) {
  byId("reload").hidden = reload.errors.length === 0;
  put("reload-source", reload.source);
  put("reload-time", reload.refused === null ? "" : clock(reload.refused));
  list("reload-errors", reload.errors);
}

// One sample each ten seconds; the newest is at the right edge, and an hour is as wide as the plot.
function path(samples, style, height, top, full) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const start = full - samples.length;
  let pen = "M"; // a gap where nothing is known
  const points = samples.map((value, index) => {
    if (value === null) {
      pen = "M";
      return "";
    }
    const x = ((start + index + 1) / full) * 720;
    const point = `${pen}${x.toFixed(1)} ${(height - 2 - (value / top) * (height - 8)).toFixed(1)}`;
    pen = "L";
    return point;
  });
  made.setAttribute("d", points.join(""));
  made.setAttribute("class", style);
  return made;
}

function showLatency(seconds, full) {
  const known = (seconds || []).filter((each) => each !== null);
  byId("latency-plot").hidden = byId("latency-key").hidden = known.length === 0;
  const most = Math.max(0.001, ...known);
  byId("latency").replaceChildren(path(seconds || [], "latency", 60, most * HEADROOM, full));
  put("latency-scale", most < 1 ? `${(most * 1000).toFixed(0)} ms` : `${most.toFixed(1)} s`);
}

function showPlot(history) {
  const full = 3600 / history.seconds;
  const top = Math.max(1024, ...history.sent_bytes, ...history.received_bytes);
  const failures = history.failures || [];
  const most = Math.max(1, ...failures);
  byId("plot").replaceChildren(
    path(history.received_bytes, "received", 160, top, full), path(history.sent_bytes, "sent", 160, top, full));
  byId("failures").replaceChildren(path(failures, "failed", 60, most * HEADROOM, full));
  showLatency(history.connect_seconds, full);
  put("scale", `${bytes(top)}/s`);
  put("half", `${bytes(top / 2)}/s`);
  put("failures-scale", `${most.toFixed(most < 10 ? 1 : 0)} failures/s`);
  const now = Date.now() / 1000;
  for (const [id, ago] of [["hour-ago", 3600], ["half-hour-ago", 1800], ["now", 0]]) {
    put(id, clock(now - ago).slice(11, 16) + "Z");
  }
}

let rules = [];
let order = {key: "line", up: true};

// In redirect mode the kernel counts packets and bytes of each line; a proxy's rules have only hits.
function showRules() {
  const counted = rules.some((each) => each.packets !== undefined);
  for (const cell of document.querySelectorAll("#rules .traffic")) cell.hidden = !counted;
  const wanted = byId("search").value.trim().toLowerCase();
  const found = rules.filter((each) => each.text.toLowerCase().includes(wanted));
  const way = order.up ? 1 : -1;
  found.sort((one, other) => {
    const [left, right] = [one[order.key] ?? 0, other[order.key] ?? 0];
    return way * (typeof left === "string" ? left.localeCompare(right) : left - right);
  });
  table("rules", found.slice(0, MAX_ROWS).map((each) => [
    [each.line, "number"], [each.text], [each.hits, "number"],
    ...(counted
      ? [[each.failures ?? 0, "number"], [each.packets, "number"],
        [bytes(each.sent_bytes), "number"], [bytes(each.received_bytes), "number"]]
      : []),
  ]), "none");
  const shown = Math.min(found.length, MAX_ROWS);
  put("shown", shown === rules.length ? "" : `${shown} of ${rules.length} rules are shown`);
}

for (const button of document.querySelectorAll("#rules button")) {
  button.addEventListener("click", () => {
    const key = button.dataset.key;
    order = {key, up: order.key === key ? !order.up : key === "line" || key === "text"};
    for (const cell of document.querySelectorAll("#rules th")) cell.removeAttribute("aria-sort");
    button.closest("th").setAttribute("aria-sort", order.up ? "ascending" : "descending");
    showRules();
  });
}
byId("search").addEventListener("input", showRules);

// Says so when a table leaves rows out.
function sayCut(id, shown, all, what) {
  put(id, shown < all ? `${shown} of ${all} ${what} are shown` : "");
}

function showStandby(standby) {
  byId("pair").hidden = !standby;
  if (!standby) return;
  const known = standby.role !== undefined; // else its process does not answer
  const since = standby.since ? ` since ${clock(standby.since)}` : "";
  put("role", known ? `${standby.role}${since}` : "not known");
  put("holder", standby.role === "active" ? "this pod" : standby.holder || "no router is heard");
  put("take-overs", known ? `${standby.take_overs}, ${standby.losses}` : "not known");
  put("took", typeof standby.took === "number" ? `${standby.took.toFixed(3)} s` : "there was none");
  table("peers", (standby.peers || []).map((each) => [
    [each.address || "not known"], [each.mac], [each.role], [each.ways.join(", ") || "not heard", each.ways.length > 1 ? "good" : "warn"],
  ]), "no other pod is heard: nobody would take over from this one");
}

function showPolicy(entries, denied) {
  byId("policy-section").hidden = entries.length === 0;
  table("policy", entries.slice(0, MAX_ROWS).map((each) => {
    const last = denied.find((one) => (one.rule || "").startsWith(`policy entry ${each.entry}:`));
    return [[each.entry, "number"], [each.text], [each.denied, "number"],
      [last ? `${clock(last.time)} ${last.client} to ${last.target}` : each.denied ? "longer ago" : "never"]];
  }), "none");
  sayCut("policy-cut", Math.min(entries.length, MAX_ROWS), entries.length, "entries");
}

function showBusy(busiest) {
  byId("busy").hidden = !busiest;
  if (!busiest) return;
  table("clients", busiest.clients.map((each) => [[each.client], [each.open, "number"]]), "none");
  table("targets", busiest.destinations.map((each) => [[each.destination], [each.open, "number"]]), "none");
  const [clients, targets] = [busiest.all_clients, busiest.all_destinations];
  put("busy-cut", clients > busiest.clients.length || targets > busiest.destinations.length
    ? `The busiest of ${clients} clients and ${targets} destinations.` : "");
}

function showDestinations(upstreams) {
  byId("destinations").hidden = upstreams.length === 0; // an open proxy has none
  const ordered = [...upstreams].sort((one, other) => one.up - other.up); // what is down comes first
  table("upstreams", ordered.slice(0, MAX_ROWS).map((each) => [
    [each.destination], [each.address], each.up ? ["up", "good"] : [each.reason || "down", "bad"],
  ]), "none");
  sayCut("upstreams-cut", Math.min(ordered.length, MAX_ROWS), ordered.length, "addresses");
}

function showErrors(errors) {
  byId("errors-section").hidden = errors.length === 0;
  put("errors-cut", errors.length >= MAX_ERRORS ? `The last ${MAX_ERRORS}; the log has all.` : "");
  table("errors", errors.map((each) => [
    [clock(each.time)], [each.level, each.level === "warning" ? "warn" : "bad"], [each.text],
  ]), "none");
}

function showTables(status) {
  rules = status.rules;
  showRules();
  showStandby(status.standby);
  showPolicy(status.policy || [], status.denied);
  showBusy(status.busiest);
  showDestinations(status.upstreams);
  showErrors(status.recent_errors || []);
  put("denied-cut", status.denied.length >= MAX_DENIED
    ? `The last ${MAX_DENIED}; the records in the log have more.` : "");
  byId("denials").hidden = status.denied.length === 0 && status.mode !== "http-proxy";
  table("denied", status.denied.map((each) => [
    [clock(each.time)], [each.client], [each.target], [each.rule || each.reason.replaceAll("_", " ")],
  ]), "nothing was denied");
}

function show(status) {
  pod = status.pod || "";
  release = status.version;
  const reasons = [...status.health, ...status.ready];
  const problems = status.problems || [];
  const known = new Set(problems.map((each) => each.text));
  // A problem that began a moment ago is not in `problems` yet.
  const all = [...reasons.filter((each) => !known.has(each)).map((text) => ({text, blocks: true})), ...problems];
  const waits = reasons.length && reasons.every((each) => each.startsWith("standing by; ") && each.includes(" is held by "));
  if (waits) showVerdict("standing by", "waiting", all.map((each) => ({...each, blocks: false})));
  else if (reasons.length) showVerdict(status.health.length ? "not healthy" : "not ready", "bad", all);
  else showVerdict(all.length ? "ready, with problems" : "ready", all.length ? "warn" : "good", all);
  showFacts(status);
  showReload(status.reload);
  showPlot(status.history);
  showTables(status);
}

async function refresh() {
  try {
    const answer = await fetch("status", {cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT)});
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    showVerdict("no answer", "bad", [{text: `what is shown below is old: ${error.message}`, blocks: true}]);
  }
  setTimeout(refresh, INTERVAL);
}

refresh();
