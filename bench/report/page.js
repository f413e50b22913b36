"use strict";
// Theme, choice of results, sorting and options of the tables. Texts from data only ever become text nodes.

(() => {
  const root = document.documentElement;
  const remembered = (() => { try { return localStorage.getItem("cam-bench-theme"); } catch { return null; } })();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("cam-bench-theme", root.dataset.theme); } catch { /* a page opened from a file may not */ }
  });

  const groups = [...document.querySelectorAll(".group")];
  const current = () => groups.find((group) => !group.hidden) ?? document;
  const openers = [...document.querySelectorAll("[data-open]")];
  const choose = (id) => {
    groups.forEach((group) => { group.hidden = group.id !== id; });
    openers.forEach((button) => { button.setAttribute("aria-pressed", String(button.dataset.open === id)); });
    document.dispatchEvent(new CustomEvent("group", { detail: id }));
  };
  for (const button of openers) {
    button.addEventListener("click", () => { choose(button.dataset.open); current().scrollIntoView(); });
  }
  const wanted = new URLSearchParams(location.hash.slice(1)).get("group");
  if (groups.length > 1) choose(groups.some((group) => group.id === wanted) ? wanted : groups[0].id);
  for (const link of document.querySelectorAll("nav a[data-part]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const selector = `section[data-part="${link.dataset.part}"]`;
      const part = current().querySelector(selector) ?? document.querySelector(selector);
      if (!part) return;
      part.scrollIntoView();
      part.tabIndex = -1;
      part.focus({ preventScroll: true });
    });
  }

  for (const button of document.querySelectorAll(".opener")) {
    button.addEventListener("click", () => {
      const rows = button.closest("tbody").nextElementSibling;
      rows.hidden = !rows.hidden;
      button.setAttribute("aria-expanded", String(!rows.hidden));
    });
  }

  // First click: best first where the column has a direction, else ascending; second click: the other way round.
  const sort = (table, index) => {
    const heads = [...table.tHead.rows[0].cells];
    const head = heads[index];
    const was = head.getAttribute("aria-sort");
    const start = head.dataset.better === "high" ? "descending" : "ascending";
    const order = was ? (was === "ascending" ? "descending" : "ascending") : start;
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const value = (row) => row.cells[index].dataset.value;
    const sign = order === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      if (body.classList.contains("band-head")) continue;
      const numeric = [...body.rows].every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
      const sorted = [...body.rows].map((row) => [value(row), row]).sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");  // what has no value stands last either way
        return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
      });
      body.append(...sorted.map(([, row]) => row));
    }
  };
  for (const table of document.querySelectorAll("table.results")) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      head.querySelector("button").addEventListener("click", () => sort(table, index));
    });
  }
  const classes = {
    more: ["show-more", true], differences: ["show-differences", true],
    reported: ["hide-reported", false], controls: ["hide-controls", false],
  };
  for (const box of document.querySelectorAll("input[data-show]")) {
    const [name, when] = classes[box.dataset.show];
    box.addEventListener("change", () => box.closest("section").classList.toggle(name, box.checked === when));
  }
})();
