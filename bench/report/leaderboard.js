// The leaderboard: rows by family, passes and layer, and the pictures of one row.

(() => {
  for (const board of document.querySelectorAll(".board")) {
    const rows = [...board.querySelectorAll("tbody tr")];
    const selects = [...board.querySelectorAll(".options select")];
    const status = board.querySelector(".status");
    const filter = () => {
      for (const row of rows) {
        // Controls are what every row is held against: no choice of family hides them.
        row.hidden = selects.some((select) => {
          const own = row.dataset[select.name];
          if (!select.value || own === select.value) return false;
          return select.name === "layer" ? own !== "-" : !row.classList.contains("control");
        });
      }
      const shown = rows.filter((row) => !row.hidden && !row.classList.contains("control")).length;
      status.textContent = `${shown} of ${rows.filter((row) => !row.classList.contains("control")).length} rows of methods`;
    };
    selects.forEach((select) => select.addEventListener("change", filter));
    filter();

    const group = board.closest(".group");
    const only = group.querySelector(".only");
    if (!only) continue;
    const style = document.head.appendChild(document.createElement("style"));
    const gallery = group.querySelector(".gallery");
    for (const button of board.querySelectorAll("[data-look]")) {
      button.addEventListener("click", () => {
        const layer = gallery.querySelector("select[name=layer]");
        if (button.dataset.at !== "-" && [...layer.options].some((each) => each.value === button.dataset.at)) {
          layer.value = button.dataset.at;
          layer.dispatchEvent(new Event("change"));
        }
        const controls = gallery.querySelector("input[name=controls]");
        if (button.closest("tr").classList.contains("control") && !controls.checked) controls.click();
        style.textContent = `#${CSS.escape(group.id)} .tile[data-method]:not([data-method="${CSS.escape(button.dataset.look)}"]) { display: none; }`;
        only.querySelector("span").textContent = `Pictures of ${button.closest("th").dataset.value} alone.`;
        only.hidden = false;
        only.scrollIntoView();
      });
    }
    only.querySelector("button").addEventListener("click", () => { style.textContent = ""; only.hidden = true; });
  }
})();
