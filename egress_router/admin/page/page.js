"use strict";

const INTERVAL = 2000; // ms
const PATIENCE = 5000; // ms; a router that does not answer must show as such
const MAX_ROWS = 200; // of the rules; the rest is in /status

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

function showVerdict(text, style, problems) {
  put("verdict", text);
  byId("verdict").className = style;
  list("problems", problems);
  byId("problems").hidden = problems.length === 0;
  document.title = `${text}: egress router`;
}

function showFacts(status) {
  const outside = status.interface;
  put("mode", status.mode);
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
function showPlot(history) {
  const width = 720, height = 160, full = 3600 / history.seconds;
  const top = Math.max(1024, ...history.sent_bytes, ...history.received_bytes);
  const path = (samples, style) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const start = full - samples.length;
    const points = samples.map((value, index) => {
      const x = ((start + index + 1) / full) * width;
      return `${x.toFixed(1)} ${(height - 2 - (value / top) * (height - 8)).toFixed(1)}`;
    });
    made.setAttribute("d", points.length ? `M${points.join("L")}` : "");
    made.setAttribute("class", style);
    return made;
  };
  byId("plot").replaceChildren(path(history.received_bytes, "received"), path(history.sent_bytes, "sent"));
  put("scale", `${bytes(top)}/s`);
}

// In redirect mode the kernel counts packets and bytes of each line; a proxy's rules have hits alone.
function showRules(rules) {
  const counted = rules.some((each) => each.packets !== undefined);
  for (const cell of document.querySelectorAll("#rules .traffic")) cell.hidden = !counted;
  table("rules", rules.slice(0, MAX_ROWS).map((each) => [
    [each.line, "number"], [each.text], [each.hits, "number"],
    ...(counted
      ? [[each.packets, "number"], [bytes(each.sent_bytes), "number"], [bytes(each.received_bytes), "number"]]
      : []),
  ]), "none");
  byId("more-rules").hidden = rules.length <= MAX_ROWS;
  put("more-rules", `The first ${MAX_ROWS} of ${rules.length} rules; all of them are in the status as JSON.`);
}

function showTables(status) {
  showRules(status.rules);
  byId("destinations").hidden = status.upstreams.length === 0;  // of an open proxy there are none to name
  table("upstreams", status.upstreams.map((each) => [
    [each.destination], [each.address], each.up ? ["up", "good"] : [each.reason || "down", "bad"],
  ]), "none");
  byId("denials").hidden = status.denied.length === 0 && status.mode !== "http-proxy";
  table("denied", status.denied.map((each) => [
    [clock(each.time)], [each.client], [each.target], [each.rule || each.reason.replaceAll("_", " ")],
  ]), "nothing was denied");
}

function show(status) {
  const problems = [...status.health, ...status.ready];
  if (problems.length) showVerdict(status.health.length ? "not healthy" : "not ready", "bad", problems);
  else showVerdict("ready", "good", []);
  showFacts(status);
  showReload(status.reload);
  showPlot(status.history);
  showTables(status);
}

async function refresh() {
  try {
    const answer = await fetch("status", {cache: "no-store", signal: AbortSignal.timeout(PATIENCE)});
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    showVerdict("no answer", "bad", [`what is shown below is old: ${error.message}`]);
  }
  setTimeout(refresh, INTERVAL);
}

refresh();
