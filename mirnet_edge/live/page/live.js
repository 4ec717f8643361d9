// The page of a live view. A pair of JPEG pictures is asked for when there is room for it, so that a
// slow page shows fewer frames, and the newest.

const IN_FLIGHT = 2;
const AGAIN_MS = [500, 1000, 2000, 4000];
const HISTORY = 120;
const PARTS = {
  capture: "waiting for and reading the source",
  queue: "waiting for the model",
  upload: "copying to the device",
  pre: "frame to tiles",
  engine: "in the network",
  post: "tiles to frame",
  download: "copying from the device",
  show: "blending and packing for this page",
};
const STATISTICS = {
  auto: "by the model's task",
  tile: "each tile's own",
  frame: "the frame's, exact",
  "frame-fast": "the frame's, sampled",
  stream: "of earlier frames",
};
const at = (id) => document.getElementById(id);
const stage = at("stage");
const before = at("before").getContext("2d");
const after = at("after").getContext("2d");
let state = null;
let tries = 0;
let held = new Set();
const latencies = [];

// Frames

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/frames`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    tries = 0;
    for (let i = 0; i < IN_FLIGHT; i++) socket.send("next");
  };
  socket.onmessage = async ({ data }) => {
    if (typeof data === "string") {
      state = JSON.parse(data);
      latencies.push(state.latency_ms ?? 0);
      if (latencies.length > HISTORY) latencies.shift();
      tell();
      return;
    }
    await show(data);
    if (socket.readyState === WebSocket.OPEN) socket.send("next");
  };
  socket.onclose = ({ code }) => {
    if (code === 4401) return location.reload();
    gone(code === 1013 ? "Too many pages look at this view." : "The view has ended, or cannot be reached. Trying again …");
    setTimeout(connect, AGAIN_MS[Math.min(tries++, AGAIN_MS.length - 1)]);
  };
}

async function show(message) {
  const length = new DataView(message).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, length)));
  let offset = 4 + length;
  const pictures = await Promise.all(head.sizes.map((size) => {
    const file = new Blob([new Uint8Array(message, offset, size)], { type: "image/jpeg" });
    offset += size;
    return createImageBitmap(file);
  }));
  const last = pictures[pictures.length - 1];
  stage.style.setProperty("--shape", `${head.width} / ${head.height}`);
  stage.style.setProperty("--ratio", head.width / head.height);
  stage.classList.toggle("same", !head.restored);
  at("after-tag").textContent = head.restored ? "after" : "as it comes";
  draw(after, last, last);
  draw(before, pictures[0], last);
  stage.dataset.number = head.number;
  pictures.forEach((picture) => picture.close());
}

function draw(context, picture, size) {
  const canvas = context.canvas;
  if (canvas.width !== size.width || canvas.height !== size.height) {
    canvas.width = size.width;
    canvas.height = size.height;
  }
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, size.width, size.height);
}

// Figures

function text(id, value) {
  const node = at(id);
  if (node.textContent !== String(value)) node.textContent = value;
}

const short = (value) => (value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(value ? 1 : 0));
const bytes = (value) => (value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`);

function banner(message, mild = false) {
  const node = at("banner");
  node.hidden = !message;
  node.classList.toggle("mild", mild);
  text("banner", message || "");
}

function gone(message) {
  at("source").dataset.state = "gone";
  text("source-state", "no connection");
  banner(message);
}

function tell() {
  const { source, model, frames } = state;
  at("source").dataset.state = source.state;
  text("source-name", source.name);
  const size = source.size ? `${source.size[0]}×${source.size[1]}` : "";
  text("source-state", source.state === "running" ? `${size} · ${short(source.rate)} /s` : source.state);
  if (source.state === "lost") banner(`The source is lost and will be opened again: ${source.message}`);
  else if (model.state === "failed") banner(`${model.name}: ${model.message}`);
  else if (model.state === "loading" && !state.settings.bypass) banner(`Loading ${model.name} …`, true);
  else banner("");
  text("rate", short(state.rate));
  text("of-rate", `of ${short(source.rate)} frames/s`);
  text("latency", state.latency_ms ? short(state.latency_ms) : "–");
  text("dropped", frames.dropped);
  text("dropped-share", frames.read ? `${(100 * frames.dropped / frames.read).toFixed(0)} % of ${frames.read}` : "");
  tellParts();
  tellHistory();
  tellMachine();
  tellControls();
  tellKept();
}

function tellParts() {
  const bar = at("parts"), legend = at("legend");
  for (const [name, meaning] of Object.entries(PARTS)) {
    const ms = state.latency[name];
    let part = bar.querySelector(`[data-part=${name}]`);
    if (!part) {
      part = bar.appendChild(document.createElement("i"));
      part.dataset.part = name;
      part.style.background = `var(--p-${name})`;
      const row = legend.appendChild(document.createElement("div"));
      row.dataset.part = name;
      row.title = meaning;
      const term = row.appendChild(document.createElement("dt"));
      term.appendChild(document.createElement("i")).style.background = `var(--p-${name})`;
      term.append(name);
      row.appendChild(document.createElement("dd"));
    }
    part.style.flexGrow = ms || 0;
    legend.querySelector(`[data-part=${name}] dd`).textContent = ms === undefined ? "–" : short(ms);
  }
}

function tellHistory() {
  const most = Math.max(...latencies, 1) * 1.1;
  const points = latencies.map((ms, i) => `${(120 * (i + HISTORY - latencies.length)) / (HISTORY - 1)},${(32 - (32 * ms) / most).toFixed(2)}`);
  const left = points[0].split(",")[0];
  at("history").querySelector(".edge").setAttribute("d", `M${points.join("L")}`);
  at("history").querySelector(".area").setAttribute("d", `M${left},32L${points.join("L")}L120,32Z`);
}

function tellMachine() {
  const { machine, model } = state;
  const facts = {
    Memory: `${bytes(machine.memory_bytes)} (${bytes(machine.available_bytes)} free)`,
    Temperature: machine.temperature_c === null ? "not readable" : `${machine.temperature_c.toFixed(0)} °C`,
  };
  if (machine.gpu_temperature_c !== null) {
    facts.GPU = `${machine.gpu_temperature_c.toFixed(0)} °C${machine.gpu_watts === null ? "" : `, ${machine.gpu_watts.toFixed(0)} W`}`;
  }
  facts["Power mode"] = machine.power_mode ?? "not readable";
  if (model.tiles) facts.Tiles = `${model.tiles} a frame`;
  if (model.scale > 1) facts.Enlarges = `${model.scale} times`;
  if (state.frames.nonfinite) facts["NaN or infinite"] = `${state.frames.nonfinite} values, shown as 0 or the end of the range`;
  if (state.source.lost) facts["Source lost"] = `${state.source.lost} ${state.source.lost > 1 ? "times" : "time"}`;
  const list = at("machine");
  list.replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const row = document.createElement("div");
    row.appendChild(document.createElement("dt")).textContent = name;
    row.appendChild(document.createElement("dd")).textContent = value;
    return row;
  }));
}

// Controls

function choices(id, names, labels = {}) {
  const node = at(id);
  if (node.options.length !== names.length) node.replaceChildren(...names.map((name) => new Option(labels[name] ?? name, name)));
}

// What a hand is on, or was set and is not yet told back, is not moved under it.
function set(id, value, key = "value") {
  if (!held.has(id)) at(id)[key] = value;
}

function tellControls() {
  const { settings, model } = state;
  choices("model", state.choices.models);
  choices("statistics", state.choices.statistics, STATISTICS);
  set("model", settings.model);
  set("statistics", settings.statistics);
  set("bypass", settings.bypass, "checked");
  set("strength", Math.round(100 * settings.strength));
  text("strength-value", `${at("strength").value} %`);
  const automatic = settings.noise === "auto";
  set("noise-auto", automatic, "checked");
  if (!automatic) set("noise-level", settings.noise);
  else if (model.noise != null) set("noise-level", model.noise);
  at("noise").disabled = !model.takes_noise;
  at("noise-level").disabled = at("noise-auto").checked;
  text("noise-value", Number(at("noise-level").value).toFixed(1));
  text("noise-told", model.takes_noise === false ? "this model asks for none" : model.noise == null ? "" : `told ${model.noise.toFixed(1)} of 255`);
}

function tellKept() {
  const { kept } = state;
  at("collect").setAttribute("aria-pressed", kept.collects);
  text("collect-text", kept.collects ? `Collecting: ${kept.frames}` : kept.frames ? `Collect more (${kept.frames})` : "Calibration frames");
  if (kept.message) note(kept.message, true);
}

async function send(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (answer.status === 401) location.reload();
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function note(message, bad = false) {
  at("note").classList.toggle("bad", bad);
  at("note").replaceChildren(message);
}

const waiting = {};
function change(id, settings, wait = 0) {
  held.add(id);
  clearTimeout(waiting[id]);
  waiting[id] = setTimeout(async () => {
    try {
      await send("/api/settings", settings);
      note("");
    } catch (error) {
      note(error.message, true);
    }
    setTimeout(() => held.delete(id), 300);
  }, wait);
}

at("divider").addEventListener("input", ({ target }) => stage.style.setProperty("--at", `${target.value}%`));
at("model").addEventListener("change", ({ target }) => change("model", { model: target.value }));
at("statistics").addEventListener("change", ({ target }) => change("statistics", { statistics: target.value }));
at("bypass").addEventListener("change", ({ target }) => change("bypass", { bypass: target.checked }));
at("strength").addEventListener("input", ({ target }) => {
  text("strength-value", `${target.value} %`);
  change("strength", { strength: target.value / 100 }, 80);
});
at("noise-auto").addEventListener("change", ({ target }) => {
  at("noise-level").disabled = target.checked;
  change("noise-auto", { noise: target.checked ? "auto" : Number(at("noise-level").value) });
});
at("noise-level").addEventListener("input", ({ target }) => {
  text("noise-value", Number(target.value).toFixed(1));
  change("noise-level", { noise: Number(target.value) }, 80);
});
at("snapshot").addEventListener("click", async () => {
  try {
    const { files, folder } = await send("/api/snapshot", {});
    const links = files.flatMap((name) => {
      const link = document.createElement("a");
      link.href = `/snapshots/${name}`;
      link.textContent = name.includes("_before") ? "before" : "after";
      link.download = name;
      return [" ", link];
    });
    note(`Saved to ${folder}:`);
    at("note").append(...links);
  } catch (error) {
    note(error.message, true);
  }
});
at("collect").addEventListener("click", async () => {
  try {
    const kept = await send("/api/calibration", { on: at("collect").getAttribute("aria-pressed") !== "true" });
    note(kept.collects ? `A frame every other second goes to ${kept.folder}` : `${kept.frames} frames are in ${kept.folder}: mirnet-edge quantize --calibration ${kept.folder}`);
  } catch (error) {
    note(error.message, true);
  }
});
at("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen?.()));
addEventListener("keydown", (event) => {
  if (event.target.matches("select, input:not(#divider)") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "b") at("bypass").click();
  if (event.key === "s") at("snapshot").click();
});

connect();
