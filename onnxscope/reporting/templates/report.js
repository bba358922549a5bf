"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const table = $("table"), body = table.tBodies[0], rows = [...body.rows];
  const cards = rows.map((row) => document.querySelector(row.querySelector("a").getAttribute("href")));
  const search = $("search"), operator = $("operator"), status = $("status");
  const scopes = [...document.querySelectorAll("[data-scope]")];
  const names = rows.map((row) => row.dataset.name.toLowerCase());
  let scope = "";

  const inside = (name) => !scope || name === scope || (name.startsWith(scope) && "./".includes(name[scope.length]));

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const text = names[i] + " " + row.dataset.op.toLowerCase();
      const kept = inside(row.dataset.name) && (!operator.value || row.dataset.op === operator.value) &&
        words.every((word) => text.includes(word));
      row.hidden = cards[i].hidden = !kept;
      shown += kept;
    });
    status.textContent = (shown === rows.length ? "" : shown + " of ") + rows.length + (rows.length === 1 ? " layer" : " layers");
    $("none").hidden = shown > 0;
  }

  function sort(column, head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column], value = cell.dataset.v;
      return value === undefined ? cell.textContent : Number(value);
    };
    const missing = (value) => value === "";
    const sorted = rows.map((row) => [key(row), row]).sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return up ? order : -order;
    });
    body.append(...sorted.map(([, row]) => row));
  }

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column, head));
    head.replaceChildren(button);
  });
  for (const link of scopes) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      scopes.forEach((other) => other.removeAttribute("aria-current"));
      link.setAttribute("aria-current", "true");
      scope = link.dataset.scope;
      filter();
    });
  }
  search.addEventListener("input", filter);
  operator.addEventListener("change", filter);

  function step(forward) {
    const shown = cards.filter((card) => !card.hidden);
    const here = shown.indexOf(document.activeElement.closest(".card"));
    const next = shown[here < 0 ? (forward ? 0 : shown.length - 1) : here + (forward ? 1 : -1)];
    if (next) {
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: "start" });
    }
  }

  function clear() {
    search.value = operator.value = "";
    scopes.forEach((link) => (link.dataset.scope ? link.removeAttribute("aria-current") : link.setAttribute("aria-current", "true")));
    scope = "";
    filter();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#l"]:not([data-scope])');
    if (link && document.querySelector(link.getAttribute("href")).hidden) clear();
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") clear();
    else if (!event.target.matches("input, select")) {
      if (event.key === "/") {
        event.preventDefault();
        search.focus();
      } else if (event.key === "j" || event.key === "k") step(event.key === "j");
    }
  });

  const theme = $("theme"), root = document.documentElement;
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  name();
  for (const hidden of [theme, document.querySelector(".tools"), $("keys")]) hidden.hidden = false;
})();
