// The gallery: maps are kept at their native size and are upsampled and coloured here, on canvases.

(() => {
  const PAGE = 8;  // cases at a time
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const element = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const palettes = {};
  const colours = document.getElementById("colours");
  if (colours) for (const [name, text] of Object.entries(JSON.parse(colours.textContent))) palettes[name] = bytes(text);

  // Linear interpolation without aligned corners: output pixel i looks at (i + 0.5) * size / target - 0.5.
  const places = (size, target) => Array.from({ length: target }, (_, i) => {
    const at = Math.min(Math.max((i + 0.5) * size / target - 0.5, 0), size - 1);
    const low = Math.floor(at);
    return [low, Math.min(low + 1, size - 1), at - low];
  });
  const upsample = (values, [h, w], height, width) => {
    const rows = places(h, height), columns = places(w, width);
    const result = new Float32Array(height * width);
    let low = Infinity, high = -Infinity;
    rows.forEach(([top, bottom, v], y) => columns.forEach(([left, right, u], x) => {
      const above = values[top * w + left] * (1 - u) + values[top * w + right] * u;
      const below = values[bottom * w + left] * (1 - u) + values[bottom * w + right] * u;
      const value = above * (1 - v) + below * v;
      result[y * width + x] = value;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }));
    const span = high - low || 1;
    return result.map((value) => (value - low) / span);
  };
  const paint = (canvas, map, palette) => {
    const heat = upsample(bytes(map.data), map.shape, canvas.height, canvas.width);
    const pixels = new ImageData(canvas.width, canvas.height);
    // What the map leaves cold stays more transparent, so that the picture can be seen.
    heat.forEach((value, i) => {
      const level = Math.round(value * 255);
      pixels.data.set([palette[3 * level], palette[3 * level + 1], palette[3 * level + 2], 128 + level / 2], 4 * i);
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  };

  const boxes = (info) => {
    const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    drawing.setAttribute("viewBox", `0 0 ${info.width} ${info.height}`);
    drawing.setAttribute("preserveAspectRatio", "none");
    drawing.setAttribute("aria-hidden", "true");
    for (const [list, kinds] of [[info.others, ["other"]], [info.boxes, ["under", "instance"]]]) {
      for (const [x0, y0, x1, y1] of list) for (const kind of kinds) {
        const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const place = { class: kind, x: x0, y: y0, width: Math.max(x1 - x0, 0), height: Math.max(y1 - y0, 0) };
        for (const [key, value] of Object.entries(place)) box.setAttribute(key, value);
        drawing.append(box);
      }
    }
    return drawing;
  };
  const shown = (value) => value === null ? "–" : value !== 0 && Math.abs(value) < 0.0005 ? value.toExponential(1) : Number(value.toFixed(3)).toString();

  const start = (section, data) => {
    const control = (name) => section.querySelector(`[name="${name}"]`);
    const list = section.querySelector(".cases"), more = section.querySelector(".more"), status = section.querySelector(".status");
    let limit = PAGE;
    const fill = (name, pairs) => pairs.forEach(([value, text]) => control(name).append(element("option", { value }, text)));
    const unique = (values) => [...new Set(values)];
    fill("class", unique(data.cases.map((one) => one.class)).sort().map((name) => [`=${name}`, name || "unnamed"]));
    fill("instances", unique(data.cases.map((one) => one.instances)).sort((a, b) => a - b).map((n) => [n, String(n)]));
    if (unique(data.cases.map((one) => one.instances)).some((n) => n > 1)) fill("instances", [["several", "2 or more"]]);
    fill("layer", data.layers.filter((name) => name !== "-").map((name) => [name, name]));
    fill("value", data.columns.map((column, i) => [i, `${column.name} ${column.arrow}`]));
    const judge = data.columns.findIndex((column) => column.metric === "box_coverage.min_coverage");
    if (data.columns.length) control("value").value = String(Math.max(judge, 0));
    const hit = data.columns.findIndex((column) => column.metric === "pointing_game.hit");

    const mean = (numbers) => numbers.length ? numbers.reduce((sum, one) => sum + one, 0) / numbers.length : null;
    const chosenLayer = () => control("layer").value;
    const entriesShown = () => data.entries.map((entry, i) => [entry, i]).filter(([entry]) =>
      (control("controls").checked || !entry.control) && (!chosenLayer() || entry.layer === chosenLayer() || entry.layer === "-"));
    const disagreement = (one) => {
      const matching = chosenLayer() ? [one.disagreement[chosenLayer()]] : Object.values(one.disagreement);
      return mean(matching.filter((value) => value !== null && value !== undefined));
    };
    const quality = (one) => {
      const at = Number(control("value").value), column = data.columns[at];
      if (!column) return null;
      const matching = data.entries.map((entry, i) => [entry, one.values[i][at]]).filter(([entry, value]) => !entry.control && value !== null
        && (!chosenLayer() || entry.layer === chosenLayer() || entry.layer === "-"));
      const value = mean(matching.map(([, one]) => one));
      return value === null ? null : column.better === false ? -value : value;
    };
    const keys = {
      disagreement: (one) => disagreement(one) === null ? Infinity : -disagreement(one),
      failures: (one) => quality(one) ?? Infinity,
      instances: (one) => -one.instances,
      probability: (one) => one.probability ?? Infinity,
      id: () => 0,
    };

    const values = (numbers) => {
      const at = Number(control("value").value);
      const node = element("span", { class: "tile-values" });
      data.columns.forEach((column, i) => {
        if (i !== at && !control("every").checked) return;
        const value = element("b", {}, shown(numbers[i]));
        if (node.childNodes.length) node.append(element("br"));
        node.append(`${column.name} `, value);
      });
      return node;
    };
    const tile = (one, entry, i) => {
      const picture = element("div", { class: "picture" });
      const map = one.maps[i];
      picture.append(element("img", { src: one.picture, alt: "", width: one.width, height: one.height }));
      if (map.data) {
        const canvas = element("canvas", { width: one.width, height: one.height, role: "img",
          "aria-label": `map of ${entry.label} for ${one.class || "the prediction"} in ${one.image}` });
        paint(canvas, map, palettes[control("colours").value]);
        picture.append(canvas, boxes(one));
      } else {
        picture.append(element("span", { class: "reason" }, map.reason));
      }
      const missed = hit >= 0 && one.values[i][hit] === 0;
      return element("div", { class: missed ? "tile missed" : "tile", "data-method": entry.method, "data-layer": entry.layer },
        picture, element("span", { class: "tile-name" }, entry.method), values(one.values[i]));
    };
    const card = (one) => {
      const picture = element("div", { class: "picture" });
      picture.append(element("img", { src: one.picture, width: one.width, height: one.height,
        alt: `${one.class || "picture"}: ${one.image} with ${one.boxes.length} boxes of the class and ${one.others.length} of others` }), boxes(one));
      const far = disagreement(one);
      const facts = [`${one.instances} ${one.instances === 1 ? "instance" : "instances"}`, `target probability ${shown(one.probability)}`];
      if (far !== null) facts.push(`disagreement ${far.toFixed(2)}`);
      const truth = element("div", { class: "truth" }, picture, element("div", {}, element("h3", {}, one.class || "prediction"),
        element("p", { class: "facts" }, facts.join(" · ")), element("p", { class: "facts" }, one.id)));
      const strips = element("div", { class: "strips" });
      const entries = entriesShown();
      for (const layer of unique(entries.map(([entry]) => entry.layer))) {
        const tiles = entries.filter(([entry]) => entry.layer === layer).map(([entry, i]) => tile(one, entry, i));
        const strip = element("div", { class: "strip" }, ...tiles);
        strip.style.setProperty("--n", String(tiles.length));
        strips.append(element("h4", {}, layer === "-" ? "no layer" : layer), strip);
      }
      return element("article", { class: "case", "data-id": one.id, "data-class": one.class, "data-instances": one.instances }, truth, strips);
    };

    const show = () => {
      const name = control("class").value, number = control("instances").value, key = keys[control("order").value];
      const matching = data.cases.filter((one) => (!name || `=${one.class}` === name)
        && (!number || (number === "several" ? one.instances > 1 : one.instances === Number(number))));
      matching.sort((a, b) => key(a) - key(b) || a.id.localeCompare(b.id));
      list.replaceChildren(...matching.slice(0, limit).map(card));
      status.textContent = `${Math.min(limit, matching.length)} of ${matching.length} cases shown`;
      more.hidden = matching.length <= limit;
    };
    const opacity = () => section.style.setProperty("--opacity", String(control("opacity").value / 100));
    control("opacity").addEventListener("input", opacity);
    control("boxes").addEventListener("change", () => section.classList.toggle("hide-boxes", !control("boxes").checked));
    for (const each of ["colours", "class", "instances", "layer", "value", "order", "controls", "every"]) {
      control(each).addEventListener("change", () => { limit = PAGE; show(); });
    }
    more.addEventListener("click", () => { limit += PAGE; show(); });
    opacity();
    show();
  };
  for (const holder of document.querySelectorAll("script[data-gallery]")) {
    const section = [...document.querySelectorAll(".gallery")].find((each) => each.dataset.for === holder.dataset.gallery);
    const data = JSON.parse(holder.textContent);
    if (data.cases.length) start(section, data);
  }
})();
