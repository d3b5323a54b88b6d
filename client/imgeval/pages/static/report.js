"use strict";
// The table of a report: rows from the JSON beside it -> filtered -> sorted -> one page of them in the document.
// Text reaches the document by textContent only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const two = data.runs.length > 1;
  const collator = new Intl.Collator(undefined, { numeric: true });
  const rows = data.rows.map(([prompt, place, ...sides]) => {
    const [a, b] = sides.map((side) => side && {
      index: side[0], image: side[1], values: side[2], error: side[3], incomplete: side[4], picture: side[5],
    });
    const texts = [prompt, a && a.image, b && b.image, a && a.error, b && b.error];
    return { prompt, place, a, b, text: texts.filter(Boolean).join("\n").toLowerCase() };
  });
  const state = { by: 0, sort: null, down: true, page: 0, size: 50, words: [], show: "all", limits: {} };
  let columns = [];
  let shown = [];

  // --- small helpers
  function el(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }
  const label = (text, control) => el("label", {}, el("span", {}, text), control);
  const options = (pairs) => pairs.map(([value, text]) => el("option", { value }, text));
  // A heading may be broken after an underscore, else two long names make the table wider than a page.
  const breakable = (text) => text.split(/(?<=_)/).flatMap((part) => [part, el("wbr")]).slice(0, -1);
  const number = (value, signed) => value === null ? "-" : (signed && value > 0 ? "+" : "") + value.toFixed(4);
  const valueOf = (side, place) => side && place < side.values.length ? side.values[place] : null;

  // --- columns: how to get a value, what to show, which way is better
  function thumbnail(side) {
    if (!side) return el("span", { className: "nothing" }, "no row");
    if (typeof side.picture === "string") return el("span", { className: "nothing" }, side.picture);
    return el("img", { src: data.thumbnails[side.picture], alt: "", className: "thumb", decoding: "async" });
  }
  function described(row) {
    const parts = [el("p", { className: "prompt", dir: "auto" }, row.prompt)];
    for (const side of [row.a, row.b].filter(Boolean)) {
      const line = el("p", { className: "muted" }, side.image);
      if (side.incomplete && data.tags) line.append(" ", el("span", { className: "tag" }, "incomplete"));
      parts.push(line);
      if (side.error) parts.push(el("p", { className: "error" }, side.error));
    }
    return parts;
  }
  function makeColumns() {
    const values = data.values;
    const numeric = (text, get, better, signed) => ({
      label: text, get, better, number: true, cell: (row) => [number(get(row), signed)],
    });
    const prompt = { label: "prompt", get: (row) => row.prompt, better: -1, cell: described, name: "whole" };
    const picture = (text, key) => ({ label: text, cell: (row) => [thumbnail(row[key])], name: `pic ${key}` });
    if (!two) {
      columns = [
        picture("picture", "a"),
        { label: "place", get: (row) => row.place, better: -1, cell: (row) => [row.place === null ? "-" : `${row.place}`],
          number: true, unlimited: true },
        ...values.map(({ label: text, better }, place) => numeric(text, (row) => valueOf(row.a, place), better)),
        prompt,
      ];
      if (!data.comparable) columns.splice(1, 1);
    } else {
      const { label: text = "value", better = 1 } = values[state.by] || {};
      const a = (row) => valueOf(row.a, state.by);
      const b = (row) => valueOf(row.b, state.by);
      const delta = (row) => data.comparable && a(row) !== null && b(row) !== null ? b(row) - a(row) : null;
      columns = [
        picture("A", "a"), { ...numeric(`A: ${text}`, a, better), name: "n a" },
        picture("B", "b"), { ...numeric(`B: ${text}`, b, better), name: "n b" },
        { ...numeric("B - A", delta, better, true), name: "n", cell: (row) => verdict(delta(row), better) },
        prompt,
      ];
    }
    const first = two ? (data.comparable ? "B - A" : columns[1].label) : values.length ? values[0].label : "prompt";
    state.sort = columns.find((column) => column.label === first) || columns.find((column) => column.get);
    state.down = state.sort.better > 0;
  }
  function verdict(value, better) {
    if (value === null || value === 0) return [value === null ? "-" : "0.0000"];
    const good = value * better > 0;
    const word = el("span", { className: good ? "good" : "bad" }, good ? "B is better" : "A is better");
    return [number(value, true), el("br"), word];
  }

  // --- filter and sort
  function passes(row) {
    const sides = [row.a, row.b].filter(Boolean);
    if (state.show === "errors" && !sides.some((side) => side.error)) return false;
    if (state.show === "scored" && sides.some((side) => side.error)) return false;
    if (state.show === "incomplete" && !sides.some((side) => side.incomplete)) return false;
    if (state.show === "alone" && sides.length === 2) return false;
    if (!state.words.every((word) => row.text.includes(word))) return false;
    for (const column of columns) {
      const limit = state.limits[column.label];
      if (!limit || (limit.min === null && limit.max === null)) continue;
      const value = column.get(row);
      if (value === null || (limit.min !== null && value < limit.min) || (limit.max !== null && value > limit.max)) return false;
    }
    return true;
  }
  function update(page = 0) {
    const { get, number: numeric } = state.sort;
    const sign = state.down ? -1 : 1;
    shown = rows.filter(passes);
    // What has no value comes last, whichever way the others are sorted.
    shown.sort((one, two) => {
      const [a, b] = [get(one), get(two)];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : collator.compare(a, b));
    });
    draw(page);
  }

  const direction = () => (state.sort.number ? ["smallest", "largest"] : ["A", "Z"])[Number(state.down)] + " first";

  // --- draw
  const table = document.getElementById("table");
  const body = el("tbody", { role: "rowgroup" });
  function drawHead() {
    const line = el("tr", { role: "row" });
    for (const column of columns) {
      const cell = el("th", { scope: "col", role: "columnheader", className: column.number ? "n" : "" });
      if (column.get) {
        const sorted = column === state.sort;
        cell.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
        const arrow = el("span", { "aria-hidden": "true", className: "arrow" }, sorted ? (state.down ? "▼" : "▲") : "↕");
        const button = el("button", { type: "button" }, ...breakable(column.label), arrow);
        button.addEventListener("click", () => sortBy(column, sorted ? !state.down : column.better > 0));
        cell.append(button);
      } else cell.append(column.label);
      line.append(cell);
    }
    const focused = document.activeElement && document.activeElement.closest("th");
    const place = focused ? [...focused.parentNode.children].indexOf(focused) : -1;
    table.replaceChildren(el("thead", { role: "rowgroup" }, line), body);
    if (place >= 0) line.children[place].querySelector("button").focus();
  }
  function draw(page) {
    const pages = Math.max(1, Math.ceil(shown.length / state.size));
    state.page = Math.min(Math.max(page, 0), pages - 1);
    const first = state.page * state.size;
    body.replaceChildren(...shown.slice(first, first + state.size).map((row) => {
      const line = el("tr", { role: "row" });
      for (const column of columns) {
        const cell = el("td", { role: "cell", className: column.name || "n" });
        if (column.number) cell.dataset.label = column.label;
        cell.append(...column.cell(row));
        line.append(cell);
      }
      return line;
    }));
    const some = (count) => count.toLocaleString("en");
    const last = Math.min(first + state.size, shown.length);
    const order = `sorted by ${state.sort.label}, ${direction()}`;
    const text = shown.length ? `Rows ${some(first + 1)} to ${some(last)} of ${some(shown.length)}, ${order}` : "No rows";
    const hidden = rows.length - shown.length;
    document.getElementById("count").textContent = text + (hidden ? `; ${some(hidden)} filtered out` : "");
    back.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    where.textContent = `page ${some(state.page + 1)} of ${some(pages)}`;
  }
  function sortBy(column, down) {
    state.sort = column;
    state.down = down;
    sorting.value = column.label;
    turn.textContent = `${direction()} ${down ? "▼" : "▲"}`;
    drawHead();
    update();
  }

  // --- controls
  const search = el("input", { type: "search", id: "search", autocomplete: "off" });
  const show = el("select", { id: "show" }, ...options([
    ["all", "all rows"], ["errors", "only errors"], ["scored", "no errors"], ["incomplete", "only incomplete"],
    ...(two ? [["alone", "only in one run"]] : []),
  ]));
  const by = el("select", { id: "by" }, ...options(data.values.map(({ label: text }, place) => [place, text])));
  const sorting = el("select", { id: "sort" });
  const turn = el("button", { type: "button", id: "turn" });
  const size = el("select", { id: "size" }, ...options([25, 50, 100, 250].map((count) => [count, `${count}`])));
  const limits = el("div", { className: "limits" });
  const clear = el("button", { type: "button", id: "clear" }, "clear filters");
  const back = el("button", { type: "button", id: "back" }, "previous");
  const next = el("button", { type: "button", id: "next" }, "next");
  const where = el("span");

  function drawLimits() {
    state.limits = {};
    const numeric = columns.filter((column) => column.number && !column.unlimited);
    limits.replaceChildren(...numeric.map((column) => {
      const limit = state.limits[column.label] = { min: null, max: null };
      const field = (key, text) => {
        const input = el("input", { type: "number", step: "any", inputMode: "decimal", "aria-label": `${column.label}, ${text}`, placeholder: text });
        input.addEventListener("input", () => {
          limit[key] = Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber;
          update();
        });
        return input;
      };
      return el("fieldset", {}, el("legend", {}, column.label), field("min", "at least"), field("max", "at most"));
    }));
    sorting.replaceChildren(...options(columns.filter((column) => column.get).map((column) => [column.label, column.label])));
  }
  function restart() {
    makeColumns();
    drawLimits();
    sortBy(state.sort, state.down);
  }
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      update();
    }, 80);
  });
  show.addEventListener("change", () => { state.show = show.value; update(); });
  by.addEventListener("change", () => { state.by = Number(by.value); restart(); });
  sorting.addEventListener("change", () => {
    const column = columns.find((each) => each.label === sorting.value);
    sortBy(column, column.better > 0);
  });
  turn.addEventListener("click", () => sortBy(state.sort, !state.down));
  size.addEventListener("change", () => { state.size = Number(size.value); draw(0); });
  clear.addEventListener("click", () => {
    search.value = "";
    show.value = "all";
    Object.assign(state, { words: [], show: "all" });
    drawLimits();
    sorting.value = state.sort.label;
    update();
  });
  const turnPage = (step) => { draw(state.page + step); document.getElementById("count").scrollIntoView(); };
  back.addEventListener("click", () => turnPage(-1));
  next.addEventListener("click", () => turnPage(1));

  size.value = `${state.size}`;
  document.getElementById("controls").append(
    label("search prompts, files, errors", search), label("show", show), ...(two ? [label("compare by", by)] : []),
    label("sort by", sorting), turn, label("rows per page", size), clear,
    el("details", {}, el("summary", {}, "limits of the values"), limits),
  );
  document.getElementById("pages").append(back, where, next);
  restart();
  performance.mark("imgeval-table");
})();
