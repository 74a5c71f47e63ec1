"use strict";
(() => {
  const PER_PAGE = 100;

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  const number = (text) => {
    const found = /^[<>]?([+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?: |$)/i.exec(text);
    return found ? Number(found[1]) : NaN;
  };

  // Numbers before words, and what is missing last, whichever way round.
  const compare = (a, b, sign) => {
    const empty = (text) => text === "" || text === "-";
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) {
      return Number.isNaN(x) - Number.isNaN(y) || sign * a.localeCompare(b);
    }
    return sign * (x - y);
  };

  // A word is looked for in the whole line; weight=3 and success>0.5 in the column that begins so.
  const test = (word, names) => {
    const found = /^([^=<>]+)([=<>])(.+)$/.exec(word);
    const column = found ? names.findIndex((name) => name.startsWith(found[1])) : -1;
    if (column < 0) return (cells) => cells.some((cell) => cell.toLowerCase().includes(word));
    const [, , sign, value] = found;
    return (cells) => {
      const cell = cells[column].toLowerCase();
      if (sign === "=") return cell === value || cell.startsWith(`${value} `);
      return sign === "<" ? number(cell) < Number(value) : number(cell) > Number(value);
    };
  };

  // `rows` are {cells: texts, node(): its <tr>}. Gives a function that shows other rows.
  const grid = (table, rows, perPage) => {
    const heads = [...table.querySelectorAll("thead th")];
    const titles = heads.map((head) => head.textContent.trim());
    const names = titles.map((title) => title.toLowerCase());
    const body = table.tBodies[0];
    const input = make("input", {
      type: "search", placeholder: names.includes("weight") ? "words, weight=3, success>0.5" : "words",
    });
    const status = make("span", {});
    status.setAttribute("role", "status");
    const before = make("button", { type: "button", textContent: "Previous" });
    const after = make("button", { type: "button", textContent: "Next" });
    let column = -1, sign = 1, first = 0;

    const draw = () => {
      const tests = input.value.toLowerCase().split(/\s+/).filter(Boolean)
        .map((word) => test(word, names));
      const kept = rows.filter((row) => tests.every((passes) => passes(row.cells)));
      if (column >= 0) kept.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
      if (first >= kept.length) first = 0;
      const last = Math.min(first + perPage, kept.length);
      body.replaceChildren(...kept.slice(first, last).map((row) => row.node()));
      const place = kept.length > perPage ? `, ${first + 1} to ${last} shown` : "";
      status.textContent = `${kept.length} of ${rows.length} rows${place}`;
      before.hidden = after.hidden = kept.length <= perPage;
      before.disabled = first === 0;
      after.disabled = last === kept.length;
    };

    heads.forEach((head, place) => {
      const button = make("button", { type: "button", textContent: titles[place] });
      button.addEventListener("click", () => {
        sign = column === place ? -sign : 1;
        [column, first] = [place, 0];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        draw();
      });
      head.replaceChildren(button);
    });
    input.addEventListener("input", () => { first = 0; draw(); });
    before.addEventListener("click", () => { first -= perPage; draw(); });
    after.addEventListener("click", () => { first += perPage; draw(); });
    const controls = make("div", { className: "controls" },
      make("label", {}, "Filter ", input), status, before, after);
    table.closest(".scroll").before(controls);
    draw();
    return (others) => { rows = others; first = 0; draw(); };
  };

  const still = (row) => ({ cells: [...row.cells].map((cell) => cell.textContent), node: () => row });

  document.querySelectorAll("table.grid:not(.episodes)").forEach((table) => {
    const rows = [...table.tBodies[0].rows].map(still);
    if (rows.length > 1) grid(table, rows, Infinity);
  });

  // The page of episodes: #row=3 shows the episodes of row 3 of summary.json, #row=3,5 those of both.
  const holder = document.querySelector("table.episodes");
  if (!holder) return;
  const data = JSON.parse(document.getElementById("data").textContent);
  const labels = [...holder.querySelectorAll("thead th")].map((head) => head.textContent);
  const chooser = document.getElementById("rows");
  const about = document.getElementById("about");
  const alone = new Set(data.rows.filter((row) => row.groups.length === 1).flatMap((row) => row.out));

  const asRow = (line, out) => {
    const [group, ...rest] = data.lines[line];
    const cells = [...data.groups[group], ...rest, out.has(line) ? "no" : "yes"]
      .map((cell) => (cell === null ? "-" : String(cell)));
    const node = () => make("tr", {}, ...cells.map((text, place) => {
      const cell = make("td", { textContent: text });
      if (!Number.isNaN(number(text))) cell.className = "n";
      cell.dataset.label = labels[place];
      return cell;
    }));
    return { cells, node };
  };

  const chosen = () => {
    const found = /[#&]row=([\d,]+)/.exec(location.hash);
    return found ? found[1].split(",").map(Number).filter((place) => data.rows[place]) : [];
  };

  const lines = () => {
    const rows = chosen().map((place) => data.rows[place]);
    const groups = new Set(rows.flatMap((row) => row.groups));
    const out = rows.length ? new Set(rows.flatMap((row) => row.out)) : alone;
    return data.lines.map((line, place) => place)
      .filter((place) => !rows.length || groups.has(data.lines[place][0]))
      .map((place) => asRow(place, out));
  };

  const explain = () => {
    const places = chosen();
    chooser.value = places.length === 1 ? String(places[0]) : "";
    about.replaceChildren(...places.flatMap((place) => {
      const row = data.rows[place];
      return [
        make("h3", { textContent: `Row ${place}: ${row.name}` }),
        make("p", { textContent: row.numbers }),
        make("pre", {}, make("code", { textContent: row.command })),
      ];
    }));
  };

  explain();
  const show = grid(holder, lines(), PER_PAGE);
  window.addEventListener("hashchange", () => { explain(); show(lines()); });
  chooser.addEventListener("change", () => {
    location.hash = chooser.value === "" ? "" : `row=${chooser.value}`;
  });
})();
