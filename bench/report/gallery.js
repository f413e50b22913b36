// The gallery: maps are kept at their native size and are upsampled and coloured here, on canvases.

(() => {
  const PAGE = 6;  // cases at a time
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const element = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const holder = document.getElementById("palette");
  const palette = holder ? bytes(JSON.parse(holder.textContent)) : null;

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
  const paint = (canvas, heat) => {
    const pixels = new ImageData(canvas.width, canvas.height);
    // What the map leaves cold is clear, so that the picture can be seen.
    heat.forEach((value, i) => {
      const level = Math.round(value * 255);
      pixels.data.set([palette[3 * level], palette[3 * level + 1], palette[3 * level + 2], level], 4 * i);
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  };
  // Box coverage of each box, as the metric has it: the map's highest positions, as many as the boxes hold together;
  // positions that tie at the edge count with the share of them that fits.
  const coverage = (heat, info) => {
    const inside = info.boxes.map(([x0, y0, x1, y1]) => {
      const list = [];
      for (let y = Math.max(0, Math.ceil(y0 - .5)); y < Math.min(info.height, Math.ceil(y1 - .5)); y++) {
        for (let x = Math.max(0, Math.ceil(x0 - .5)); x < Math.min(info.width, Math.ceil(x1 - .5)); x++) list.push(y * info.width + x);
      }
      return list;
    });
    const budget = new Set(inside.flat()).size;
    if (!budget) return inside.map(() => null);
    const sorted = heat.slice().sort();
    const edge = sorted[sorted.length - budget];
    let above = 0, tied = 0;
    heat.forEach((value) => { above += value > edge; tied += value === edge; });
    const share = (budget - above) / tied;
    return inside.map((list) => list.length
      ? list.reduce((sum, i) => sum + (heat[i] > edge ? 1 : heat[i] === edge ? share : 0), 0) / list.length : null);
  };

  const boxes = (info, covered = []) => {
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
    info.boxes.forEach(([x0, , , y1], i) => {
      if (covered[i] === undefined || covered[i] === null) return;
      const size = Math.max(info.width, info.height) / 13;
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      const place = { x: x0 + size / 5, y: y1 - size / 4, "font-size": size };
      for (const [key, value] of Object.entries(place)) text.setAttribute(key, value);
      text.textContent = covered[i].toFixed(2).replace(/^0/, "");
      drawing.append(text);
    });
    return drawing;
  };
  // Maps are upsampled and painted when they come into view: a click answers at once, however many tiles there are.
  const waiting = new WeakMap();
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      waiting.get(entry.target)?.();
    }
  }, { rootMargin: "200px" });
  const whenSeen = (node, draw) => { waiting.set(node, draw); seen.observe(node); };
  const shown = (value) => value === null ? "–" : value !== 0 && Math.abs(value) < 0.0005 ? value.toExponential(1) : Number(value.toFixed(3)).toString();

  const start = (section, data) => {
    const control = (name) => section.querySelector(`[name="${name}"]`);
    const list = section.querySelector(".cases"), more = section.querySelector(".more-cases"), status = section.querySelector(".status");
    let limit = PAGE;
    const fill = (name, pairs) => pairs.forEach(([value, text]) => control(name).append(element("option", { value }, text)));
    const unique = (values) => [...new Set(values)];
    fill("class", unique(data.cases.map((one) => one.class)).sort().map((name) => [`=${name}`, name || "unnamed"]));
    fill("instances", unique(data.cases.map((one) => one.instances)).sort((a, b) => a - b).map((n) => [n, String(n)]));
    if (unique(data.cases.map((one) => one.instances)).some((n) => n > 1)) fill("instances", [["several", "2 or more"]]);
    fill("layer", data.layers.map((name, i) => [name, data.titles[i]]));
    control("layer").value = data.layer;
    fill("value", data.columns.map((column, i) => [i, `${column.name} ${column.arrow}`]));
    const judge = data.columns.findIndex((column) => column.metric === "box_coverage.min_coverage");
    if (data.columns.length) control("value").value = String(Math.max(judge, 0));
    const hit = data.columns.findIndex((column) => column.metric === "pointing_game.hit");

    const mean = (numbers) => numbers.length ? numbers.reduce((sum, one) => sum + one, 0) / numbers.length : null;
    const chosenLayer = () => control("layer").value;
    const entriesShown = () => data.entries.map((entry, i) => [entry, i]).filter(([entry]) =>
      (control("controls").checked || !entry.control) && (entry.layer === chosenLayer() || entry.layer === "-"));
    const disagreement = (one) => one.disagreement[chosenLayer()] ?? null;
    const quality = (one) => {
      const at = Number(control("value").value), column = data.columns[at];
      if (!column) return null;
      const matching = data.entries.map((entry, i) => [entry, one.values[i][at]]).filter(([entry, value]) => !entry.control && value !== null
        && (entry.layer === chosenLayer() || entry.layer === "-"));
      const value = mean(matching.map(([, one]) => one));
      return value === null ? null : column.better === false ? -value : value;
    };
    // A fixed shuffle of the names: a sample that nobody chose, the same for every reader.
    const shuffled = (text) => [...text].reduce((code, letter) => Math.imul(code ^ letter.codePointAt(0), 16777619) >>> 0, 2166136261);
    const average = () => mean(data.cases.map(quality).filter((value) => value !== null));
    const keys = {
      sample: () => (one) => shuffled(one.id),
      typical: () => { const middle = average(); return (one) => quality(one) === null ? Infinity : Math.abs(quality(one) - middle); },
      worst: () => (one) => quality(one) ?? Infinity,
      disagreement: () => (one) => disagreement(one) === null ? Infinity : -disagreement(one),
      id: () => () => 0,
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
      picture.append(element("img", { src: map.picture ?? one.picture, alt: "", width: one.width, height: one.height }));
      if (map.data) {
        const canvas = element("canvas", { width: one.width, height: one.height, role: "img",
          "aria-label": `map of ${entry.title} for ${one.class || "the prediction"} in ${one.image}` });
        whenSeen(canvas, () => {
          const heat = upsample(bytes(map.data), map.shape, canvas.height, canvas.width);
          paint(canvas, heat);
          // A volume's tile has slices of its own, and the boxes there.
          picture.append(map.boxes ? boxes({ ...one, boxes: map.boxes, others: map.others }) : boxes(one, coverage(heat, one)));
        });
        picture.append(canvas);
      } else {
        picture.append(element("span", { class: "reason" }, map.reason));
      }
      const missed = map.data && hit >= 0 && one.values[i][hit] === 0;
      return element("div", { class: missed ? "tile missed" : "tile", "data-method": entry.method, "data-layer": entry.layer },
        picture, element("span", { class: "tile-name", title: entry.label }, entry.title), values(one.values[i]));
    };
    const card = (one) => {
      const picture = element("div", { class: "picture" });
      picture.append(element("img", { src: one.picture, width: one.width, height: one.height,
        alt: `${one.class || "picture"}: ${one.image} with ${one.boxes.length} boxes of the class and ${one.others.length} of others` }), boxes(one));
      const far = disagreement(one);
      const facts = one.instances ? [`${one.instances} ${one.instances === 1 ? "instance" : "instances"}`] : [];
      facts.push(`${one.follows} ${shown(one.probability)}`);
      if (one.predicted) facts.push(`predicted: ${one.predicted} (${shown(one.predicted_probability)})`);
      if (far !== null) facts.push(`disagreement ${far.toFixed(2)}`);
      const truth = element("div", { class: "truth" }, picture, element("div", {}, element("h3", {}, one.class || one.predicted || "prediction"),
        element("p", { class: "facts" }, facts.join(" · ")), element("p", { class: "facts" }, one.id)));
      const strips = element("div", { class: "strips" });
      const entries = entriesShown();
      for (const layer of unique(entries.map(([entry]) => entry.layer))) {
        const tiles = entries.filter(([entry]) => entry.layer === layer).map(([entry, i]) => tile(one, entry, i));
        const strip = element("div", { class: "strip" }, ...tiles);
        strip.style.setProperty("--n", String(tiles.length));
        strips.append(element("h4", {}, layer.replace(/^-(?=@|$)/, "no layer")), strip);
      }
      return element("article", { class: "case", "data-id": one.id, "data-class": one.class, "data-instances": one.instances }, truth, strips);
    };

    const remember = () => {
      const state = new URLSearchParams({ group: section.dataset.for });
      for (const each of ["layer", "order", "value", "class", "instances"]) if (control(each).value) state.set(each, control(each).value);
      try { history.replaceState(null, "", `#${state}`); } catch { /* some browsers refuse for files */ }
    };
    const show = () => {
      const name = control("class").value, number = control("instances").value, key = keys[control("order").value]();
      const matching = data.cases.filter((one) => (!name || `=${one.class}` === name)
        && (!number || (number === "several" ? one.instances > 1 : one.instances === Number(number))));
      const places = new Map(matching.map((one) => [one, key(one)]));
      matching.sort((a, b) => places.get(a) - places.get(b) || a.id.localeCompare(b.id));
      list.replaceChildren(...matching.slice(0, limit).map(card));
      status.textContent = `${Math.min(limit, matching.length)} of ${matching.length} cases shown`;
      more.hidden = matching.length <= limit;
    };
    const opacity = () => section.style.setProperty("--opacity", String(control("opacity").value / 100));
    control("opacity").addEventListener("input", opacity);
    control("boxes").addEventListener("change", () => section.classList.toggle("hide-boxes", !control("boxes").checked));
    for (const each of ["class", "instances", "layer", "value", "order", "controls", "every"]) {
      control(each).addEventListener("change", () => { limit = PAGE; show(); remember(); });
    }
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (wanted.get("group") === section.dataset.for) {
      for (const each of ["layer", "order", "value", "class", "instances"]) {
        if ([...control(each).options].some((option) => option.value === wanted.get(each))) control(each).value = wanted.get(each);
      }
    }
    const bar = section.querySelector(".colourbar"), strip = new ImageData(bar.width, bar.height);
    for (let i = 0; i < bar.width * bar.height; i++) {
      const level = Math.round(255 * (i % bar.width) / (bar.width - 1));
      strip.data.set([palette[3 * level], palette[3 * level + 1], palette[3 * level + 2], 255], 4 * i);
    }
    bar.getContext("2d").putImageData(strip, 0, 0);
    more.addEventListener("click", () => { limit += PAGE; show(); });
    opacity();
    // A result that is not shown costs nothing until it is.
    if (section.closest(".group").hidden) {
      const open = (event) => { if (event.detail === section.dataset.for) { document.removeEventListener("group", open); show(); } };
      document.addEventListener("group", open);
    } else show();
  };
  for (const holder of document.querySelectorAll("script[data-gallery]")) {
    const section = [...document.querySelectorAll(".gallery")].find((each) => each.dataset.for === holder.dataset.gallery);
    const data = JSON.parse(holder.textContent);
    if (data.cases.length) start(section, data);
  }
})();
