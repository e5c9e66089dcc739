"use strict";
(function () {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  let shade = "auto";
  // A page from a disk may not be allowed to remember anything.
  try { shade = localStorage.getItem("tokensieve-theme") || "auto"; } catch (error) { shade = "auto"; }
  function paint() {
    if (shade === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", shade);
    theme.textContent = "Theme: " + shade;
  }
  theme.addEventListener("click", function () {
    shade = order[(order.indexOf(shade) + 1) % order.length];
    try { localStorage.setItem("tokensieve-theme", shade); } catch (error) { /* then it is forgotten */ }
    paint();
  });
  if (order.indexOf(shade) < 0) shade = "auto";
  paint();

  // Tables and figures: copies, columns and curves.
  const element = function (tag, text) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (tag === "button") made.type = "button";
    return made;
  };
  function copied(button, done) {
    const name = button.textContent;
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(function () { button.textContent = name; }, 1500);
  }
  function copy(button, text) {
    // Pages from a disk may have no clipboard; then the selection is copied, as by hand.
    const byHand = function () {
      const area = element("textarea", "");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      button.focus();
      copied(button, done);
    };
    if (!navigator.clipboard) { byHand(); return; }
    navigator.clipboard.writeText(text).then(function () { copied(button, true); }, byHand);
  }
  const texts = JSON.parse(document.getElementById("texts").textContent);
  document.querySelectorAll(".table").forEach(function (holder) {
    const tools = holder.querySelector(".tools"), own = texts[holder.id.replace(/^table-/, "")];
    const heads = Array.from(holder.querySelectorAll("thead th"));
    if (heads.length > 3) {
      const columns = document.createElement("details"), list = document.createElement("div");
      columns.append(element("summary", "Columns"), list);
      heads.forEach(function (head, number) {
        const label = element("label", " " + head.textContent), box = document.createElement("input");
        box.type = "checkbox";
        box.checked = true;
        box.addEventListener("change", function () {
          holder.querySelectorAll("tr").forEach(function (line) {
            if (!line.classList.contains("group") && line.cells[number + 1]) line.cells[number + 1].hidden = !box.checked;
          });
        });
        label.prepend(box);
        list.append(label);
      });
      tools.append(columns);
    }
    Object.keys(own || {}).forEach(function (kind) {
      const button = element("button", "Copy " + kind);
      button.addEventListener("click", function () { copy(button, own[kind]); });
      tools.append(button);
    });
  });
  const intervals = document.getElementById("intervals");
  intervals.closest(".choices").hidden = false;
  intervals.addEventListener("change", function () { root.classList.toggle("no-intervals", !intervals.checked); });
  document.querySelectorAll("figure").forEach(function (figure) {
    const svg = figure.querySelector("svg"), tools = figure.querySelector(".tools");
    const names = JSON.parse(figure.getAttribute("data-switches") || "[]");
    const button = element("button", "Copy SVG");
    button.addEventListener("click", function () { copy(button, svg.outerHTML); });
    tools.append(button);
    if (names.length < 2) return;
    const row = document.createElement("div");
    row.className = "switches";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", "Curves that are shown");
    names.forEach(function (name, number) {
      const parts = Array.from(svg.querySelectorAll("g[id]")).filter(function (part) {
        return new RegExp("-curve-" + number + "-[a-z0-9-]+$").test(part.id);
      });
      const one = element("button", name), path = parts.map(function (part) { return part.querySelector("path"); })
        .find(function (found) { return found && found.style.stroke && found.style.stroke !== "none"; });
      if (path) one.style.setProperty("--swatch", path.style.stroke);
      one.setAttribute("aria-pressed", "true");
      one.addEventListener("click", function () {
        const on = one.getAttribute("aria-pressed") !== "true";
        one.setAttribute("aria-pressed", String(on));
        parts.forEach(function (part) { part.style.display = on ? "" : "none"; });
      });
      row.append(one);
    });
    figure.insertBefore(row, figure.querySelector("figcaption"));
  });

  const source = document.getElementById("viewer-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  document.getElementById("no-script").hidden = true;
  document.getElementById("viewer-parts").hidden = false;
  const $ = function (id) { return document.getElementById(id); };
  const make = function (tag, text, kind) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const SVG = "http://www.w3.org/2000/svg";
  const state = { view: 0, method: 0, sample: 0, step: 1 };

  function decoded(text, size) {
    const bytes = atob(text), found = new Uint8Array(size);
    for (let id = 0; id < size; id++) found[id] = (bytes.charCodeAt(id >> 3) >> (id & 7)) & 1;
    return found;
  }
  // The cells of a grid whose bit is `want`, as one path, runs of a row joined.
  function cells(kept, grid, want) {
    const rows = grid[0], columns = grid[1];
    let path = "";
    for (let row = 0; row < rows; row++) {
      for (let start = 0; start < columns; start++) {
        if (kept[row * columns + start] !== want) continue;
        let end = start;
        while (end + 1 < columns && kept[row * columns + end + 1] === want) end++;
        path += "M" + start + " " + row + "h" + (end + 1 - start) + "v1h-" + (end + 1 - start) + "z";
        start = end;
      }
    }
    return path;
  }
  function outlined(bits, grid) {
    const rows = grid[0], columns = grid[1];
    const on = function (row, column) {
      return row >= 0 && column >= 0 && row < rows && column < columns && bits[row * columns + column] === 1;
    };
    let path = "";
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
      if (!on(row, column)) continue;
      if (!on(row - 1, column)) path += "M" + column + " " + row + "h1";
      if (!on(row + 1, column)) path += "M" + column + " " + (row + 1) + "h1";
      if (!on(row, column - 1)) path += "M" + column + " " + row + "v1";
      if (!on(row, column + 1)) path += "M" + (column + 1) + " " + row + "v1";
    }
    return path;
  }
  function picture(view, sample, kept, thin) {
    const box = make("div", undefined, "pic");
    if (sample.picture !== null) {
      const image = make("img");
      image.src = data.pictures[sample.picture];
      image.alt = "";
      if (image.src.startsWith("data:image/jpeg")) box.classList.add("smooth");
      box.append(image);
    } else box.append(make("div", undefined, "blank"));
    if (view.grid && kept) {
      const over = document.createElementNS(SVG, "svg");
      over.setAttribute("viewBox", "0 0 " + view.grid[1] + " " + view.grid[0]);
      over.setAttribute("preserveAspectRatio", "none");
      over.setAttribute("aria-hidden", "true");
      const add = function (kind, path) {
        const one = document.createElementNS(SVG, "path");
        one.setAttribute("class", kind);
        one.setAttribute("d", path);
        over.append(one);
      };
      add("veil", cells(kept, view.grid, 0));
      if (sample.needed && !thin) {
        const path = outlined(decoded(sample.needed, view.size), view.grid);
        add("need under", path);
        add("need", path);
      }
      box.append(over);
    }
    return box;
  }
  // All steps of the slider for a method: every token, its budgets from the largest, and none.
  function steps(view, method) {
    const found = [];
    if (view.whole) found.push({ name: "all tokens", rows: view.whole, fill: 1 });
    for (const keep of view.keeps) if (method.at[keep])
      found.push({ name: "keep " + keep, rows: method.at[keep].rows, tokens: method.at[keep].tokens });
    if (view.none) found.push({ name: "no tokens", rows: view.none, fill: 0 });
    return found;
  }
  function kept(view, step, sample) {
    if (step.fill !== undefined) return new Uint8Array(view.size).fill(step.fill);
    const text = step.rows[sample][0];
    return text === null ? null : decoded(text, view.size);
  }
  const grade = function (value) { return value >= 1 ? "right" : value <= 0 ? "wrong" : "partly right (" + value + ")"; };
  const tone = function (value) { return value >= 0.5 ? "right" : "wrong"; };
  const mark = function (value) { return value >= 1 ? "\u2713" : value <= 0 ? "\u2717" : "\u223c"; };
  const count = function (bits) { let sum = 0; for (const bit of bits) sum += bit; return sum; };
  const quoted = function (text) { return "\u201c" + text + "\u201d"; };

  function options(select, names, chosen) {
    select.replaceChildren(...names.map(function (name, number) {
      const option = make("option", name);
      option.value = String(number);
      option.selected = number === chosen;
      return option;
    }));
  }
  function group(role) {
    return role === "method" ? "" : role === "inverted" ? "" : role.endsWith("oracle") ? "bound: " : "control: ";
  }
  function fill() {
    const view = data.views[state.view];
    state.method = Math.min(state.method, view.methods.length - 1);
    state.sample = Math.min(state.sample, view.samples.length - 1);
    options($("pick-view"), data.views.map(function (one) { return one.title; }), state.view);
    options($("pick-method"), view.methods.map(function (one) { return group(one.role) + one.name; }), state.method);
    options($("pick-sample"), view.samples.map(function (one, number) {
      return (number + 1) + ". " + (one.kind ? one.kind + ": " : "") + (one.question || one.id);
    }), state.sample);
    show();
  }
  function show() {
    const view = data.views[state.view], method = view.methods[state.method], sample = view.samples[state.sample];
    const all = steps(view, method);
    state.step = Math.min(state.step, all.length - 1);
    const step = all[state.step], row = step.rows[state.sample], bits = kept(view, step, state.sample);
    const slider = $("budget");
    slider.max = String(all.length - 1);
    slider.value = String(state.step);
    slider.setAttribute("aria-valuetext", step.name);
    $("budget-name").textContent = step.name;
    $("stage").replaceChildren(picture(view, sample, bits, false));
    $("stage").setAttribute("data-kept", bits ? String(count(bits)) : "");
    $("question").textContent = sample.question || sample.id;
    $("asked").textContent = [sample.kind, sample.right.length ? "right: " + sample.right.join(" or ") : "", sample.id]
      .filter(Boolean).join(" \u00b7 ");
    const how = bits === null ? "what was kept is not known" : count(bits) + " of " + view.size + " tokens";
    const per = step.tokens === undefined ? "" : " (" + step.tokens + " per layer)";
    const said = $("said");
    said.replaceChildren(make("span", how + per + ". Answer: "), make("b", quoted(row[1])), make("span", ", "),
      make("span", mark(row[2]) + " " + grade(row[2]), tone(row[2])));
    const body = all.map(function (one, number) {
      const line = make("tr", undefined, number === state.step ? "now" : "");
      const its = one.rows[state.sample], own = kept(view, one, state.sample);
      const head = make("th", one.name);
      head.scope = "row";
      line.append(head, make("td", own ? String(count(own)) : "\u2013"), make("td", its[1]),
        make("td", mark(its[2]) + " " + grade(its[2]), tone(its[2])));
      return line;
    });
    $("steps").replaceChildren(...body);
    gallery(view, sample, step);
  }
  function gallery(view, sample, step) {
    const holder = $("gallery"), kind = step.name.replace(/^keep /, "");
    const shown = [];
    view.methods.forEach(function (method, number) {
      const its = method.at[kind];
      if (!its) return;
      const row = its.rows[state.sample];
      const button = make("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(number === state.method));
      const bits = row[0] === null ? null : decoded(row[0], view.size);
      button.append(picture(view, sample, bits, true), make("span", method.name + ": "),
        make("span", quoted(row[1]) + " " + mark(row[2]), tone(row[2])));
      button.addEventListener("click", function () {
        state.method = number;
        fill();
        holder.querySelector('[aria-pressed="true"]').focus();
      });
      shown.push(button);
    });
    holder.replaceChildren(...shown);
    $("gallery-title").hidden = shown.length === 0;
    $("gallery-title").textContent = "Every method on this question at " + step.name;
  }
  const picks = { "pick-view": "view", "pick-method": "method", "pick-sample": "sample" };
  Object.keys(picks).forEach(function (id) {
    $(id).addEventListener("change", function (event) { state[picks[id]] = Number(event.target.value); fill(); });
  });
  $("budget").addEventListener("input", function (event) { state.step = Number(event.target.value); show(); });
  function move(by) {
    const total = data.views[state.view].samples.length;
    state.sample = (state.sample + by + total) % total;
    fill();
  }
  $("before").addEventListener("click", function () { move(-1); });
  $("after").addEventListener("click", function () { move(1); });
  if (data.views.length < 2) $("pick-view").closest("label").hidden = true;
  fill();
})();
