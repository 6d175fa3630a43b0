"use strict";
(() => {
  const tip = document.getElementById("tip");
  const two = (n) => String(n).padStart(2, "0");
  const stamp = (ms, days) => {
    const t = new Date(ms);
    const day = `${t.getUTCFullYear()}-${two(t.getUTCMonth() + 1)}-${two(t.getUTCDate())}`;
    return days ? day : `${day} ${two(t.getUTCHours())}:${two(t.getUTCMinutes())}`;
  };
  const brief = (v) => (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6) ? v.toExponential(2) : v.toPrecision(4));
  const line = (...parts) => {
    const p = document.createElement("p");
    for (const part of parts) {
      const span = document.createElement("span");
      span.textContent = part;
      p.append(span);
    }
    return p;
  };

  // The points of a path, in strokes; what the page draws is all that there is to read.
  const points = (path) =>
    path.getAttribute("d").split("M").filter(Boolean).map((stroke) =>
      stroke.replace("h0", "").split(/[L ]/).map(Number).reduce((all, v, i) => {
        if (i % 2) all[all.length - 1].push(v);
        else all.push([v]);
        return all;
      }, []));
  const valueAt = (path, x, reach) => {
    path.strokes ??= points(path);
    let best = null;
    for (const stroke of path.strokes) {
      if (x < stroke[0][0] - reach || x > stroke[stroke.length - 1][0] + reach) continue;
      for (let i = 0; i < stroke.length; i++) {
        const far = Math.abs(stroke[i][0] - x);
        if (best === null || far < best[0]) best = [far, stroke[i][1]];
      }
    }
    if (best === null) return null;
    const d = path.dataset, up = 1 - best[1] / 100, low = +d.low, high = +d.high;
    return d.log === "1" ? low * (high / low) ** up : low + up * (high - low);
  };

  const coverage = (chart, at, row) => {
    const data = (chart.data ??= JSON.parse(chart.querySelector("script").textContent));
    const start = +chart.dataset.start, time = start + at * (+chart.dataset.end - start);
    let column = data.edges.findIndex((edge) => edge > time) - 1;
    if (column < 0) column = data.planned.length - 1;
    const days = !["slot", "hour"].includes(data.unit);
    const until = days ? ` to ${stamp(data.edges[column + 1] - 1, true)}` : "";
    const single = data.unit === "slot" || data.unit === "hour" || data.unit === "day";
    const head = `${data.names[row]}  ${stamp(data.edges[column], days)}${single ? "" : until}`;
    const found = data.cells[row][column] ?? [[data.reasons.indexOf("ok"), data.planned[column]]];
    return [line(head), ...found.map(([code, n]) => line(`${n.toLocaleString("en")} ${data.reasons[code]}`))];
  };
  const curves = (chart, at) => {
    const start = +chart.dataset.start, span = +chart.dataset.end - start;
    const list = [line(stamp(start + at * span))];
    for (const path of chart.querySelectorAll(".line")) {
      const value = valueAt(path, at * 1000, 4);
      const p = line(path.dataset.name, value === null ? "no data" : brief(value));
      p.dataset.c = path.dataset.c;
      list.push(p);
    }
    return list;
  };

  for (const chart of document.querySelectorAll(".chart")) {
    const plots = [...chart.querySelectorAll(".plot")];
    const cursor = document.createElement("div");
    cursor.className = "cursor";
    cursor.hidden = true;
    chart.append(cursor);
    let at = 0.5, row = 0;
    const hide = () => { tip.hidden = cursor.hidden = true; };
    const show = (x, y) => {
      const box = plots[0].getBoundingClientRect(), outer = chart.getBoundingClientRect();
      at = Math.min(Math.max(at, 0), 1);
      tip.replaceChildren(...(chart.classList.contains("coverage") ? coverage(chart, at, row) : curves(chart, at)));
      cursor.style.left = `${box.left - outer.left + at * box.width}px`;
      tip.hidden = cursor.hidden = false;
      const size = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
      x ??= box.left + at * box.width;
      y ??= plots[row].getBoundingClientRect().top;
      const left = x + 16 + size.width < wide ? x + 16 : Math.max(4, x - 16 - size.width);
      tip.style.transform = `translate(${left}px, ${Math.min(Math.max(4, y + 14), innerHeight - size.height - 4)}px)`;
    };
    chart.addEventListener("pointermove", (event) => {
      const box = plots[0].getBoundingClientRect();
      if (event.clientX < box.left || event.clientX > box.right) return hide();
      at = (event.clientX - box.left) / box.width;
      const over = plots.findIndex((plot) => plot.getBoundingClientRect().bottom >= event.clientY);
      row = over < 0 ? plots.length - 1 : over;
      show(event.clientX, event.clientY);
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], down = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (event.key === "Escape") return hide();
      if (step === undefined && down === undefined) return;
      event.preventDefault();
      at += (step ?? 0) * (event.shiftKey ? 0.05 : 0.0025);
      row = Math.min(Math.max(row + (down ?? 0), 0), plots.length - 1);
      show();
    });
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
