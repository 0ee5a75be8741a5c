// Draws the charts of every section, for the screen, in light or dark, and for paper.

const options = () => ({displaylogo: false, displayModeBar: !onPaper(), modeBarButtonsToRemove: ["select2d", "lasso2d"]});
const PAPER = 690;  // pixels that fit the width of A4 and of Letter
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [];  // functions that draw a chart, or draw it again
const onPaper = () => document.documentElement.classList.contains("paper");
const widthOf = plot => onPaper() ? PAPER : plot.clientWidth;
const heightOf = width => onPaper() ? 360 : Math.min(560, Math.max(400, 0.7 * width));
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seen = own => own === "black" ? colour("--ink") : own;  // on a dark page, too
const arrow = (isLoss, lower, higher) => isLoss ? `loss, lower is better ${lower}` : `higher is better ${higher}`;

function layout(width, height, x, y) {
  const axis = title => ({title: {text: title, standoff: 8}, zeroline: false, automargin: true, gridcolor: colour("--line")});
  return {
    width, height, xaxis: axis(x), yaxis: axis(y), font: {color: colour("--ink")}, showlegend: true,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink")},
    margin: {l: 50, r: 15, t: 34, b: 50}, hovermode: "closest", hoverlabel: {align: "left"},
    dragmode: width < 500 ? false : "zoom",  // a finger scrolls the page
  };
}

// The legend is beside a wide chart and, with room of its own, below a narrow one.
function withLegend(plotLayout, names) {
  if (plotLayout.width >= 900) return plotLayout;
  const widest = 45 + 6.5 * Math.max(...names.map(name => name.length));
  const rows = Math.ceil(names.length / Math.max(1, Math.floor((plotLayout.width - 65) / widest)));
  plotLayout.height += 19 * rows;
  plotLayout.legend = {orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0};
  plotLayout.margin.b += 19 * rows + 15;
  return plotLayout;
}

function fill(select, names, chosen) {
  for (const name of names) select.add(new Option(name, name, false, name === chosen));
}

// Places of labels beside points, in pixels from each: the nearest that covers no label, point or line, or the freest.
function offsets(points, area, lines) {
  const overlap = (a, b) => Math.max(0, Math.min(a.x1, b.x1) - Math.max(a.x0, b.x0)) * Math.max(0, Math.min(a.y1, b.y1) - Math.max(a.y0, b.y0));
  const around = (x, y, half) => ({x0: x - half, x1: x + half, y0: y - half, y1: y + half});
  const boxes = points.map(p => around(p.x, p.y, 5));
  for (const line of lines) line.slice(1).forEach((end, i) => {
    const start = line[i], steps = Math.ceil(Math.hypot(end.x - start.x, end.y - start.y) / 5);
    for (let k = 0; k < steps; k++) boxes.push(around(start.x + (end.x - start.x) * k / steps, start.y + (end.y - start.y) * k / steps, 1));
  });
  return points.map(point => {
    let best = null;
    for (let far = 8; far <= 100 && !(best?.cost === 0); far += 6) {
      for (let turn = 0; turn < 16; turn++) {
        const angle = (turn + 0.5) * Math.PI / 8, [cos, sin] = [Math.cos(angle), Math.sin(angle)];
        const [x, y] = [cos * (far + point.width / 2), sin * (far + 7)];
        const box = {x0: point.x + x - point.width / 2, x1: point.x + x + point.width / 2, y0: point.y + y - 7, y1: point.y + y + 7};
        const outside = box.x0 < 0 || box.x1 > area.w || box.y0 < 0 || box.y1 > area.h;
        const cost = (outside ? 1e4 : 0) + boxes.reduce((sum, other) => sum + overlap(box, other), 0);
        if (best === null || cost < best.cost) best = {cost, x, y, box};
        if (cost === 0) break;
      }
    }
    boxes.push(best.box);
    return best;
  });
}

// A name in at most two lines of a width in pixels.
function wrapped(name, room) {
  const fits = text => 5.8 * text.length <= room, words = name.split(" "), lines = [words.shift()];
  for (const word of words) fits(`${lines.at(-1)} ${word}`) || lines.length === 2 ? lines.push(`${lines.pop()} ${word}`) : lines.push(word);
  return lines.map(line => short(line, room)).join("<br>");
}

const short = (name, room) => 5.8 * name.length <= room ? name : name.slice(0, Math.max(3, Math.floor(room / 5.8) - 1)) + "…";

function plane(section, data) {
  const [across, up, plot] = [".x", ".y", ".plane"].map(part => section.querySelector(part));
  if (!plot) return;
  fill(across, data.tasks, data.tasks[data.tasks.length - 1]);
  fill(up, data.tasks, data.tasks[0]);
  const methods = new Map();
  for (const point of data.points) methods.set(point.method, [...methods.get(point.method) ?? [], point]);

  function draw() {
    const [x, y] = [across.value, up.value], at = (points, task, i) => points.map(p => p.scores[task][i]);
    const bars = (points, task) => ({array: at(points, task, 1), thickness: 0.6, width: 2, visible: points.some(p => p.runs > 1)});
    const marks = [...methods].map(([method, points]) => {
      const style = points[0].style, isJoined = data.lines.some(line => data.points[line[0]].method === method);
      return {
        type: "scatter", name: method, legendgroup: method, mode: "markers", showlegend: !isJoined,
        x: at(points, x, 0), y: at(points, y, 0), error_x: bars(points, x), error_y: bars(points, y),
        marker: {size: style.symbol === "star" ? 14 : 9, color: seen(style.colour), symbol: style.symbol},
        customdata: points.map(p => `<b>${p.method}</b> ${p.settings}<br>` + data.tasks.slice(0, 8).map(
          task => `${task} ${p.scores[task][0].toFixed(3)} ± ${p.scores[task][1].toFixed(3)}`).join("<br>")
          + `<br>${p.runs} run${p.runs > 1 ? "s" : ""}`),
        hovertemplate: "%{customdata}<extra></extra>",
      };
    });
    const named = new Set();
    const lines = data.lines.map(places => {
      const points = places.map(i => data.points[i]), {method, style} = points[0], isFirst = !named.has(method);
      named.add(method);
      return {
        type: "scatter", name: method, legendgroup: method, mode: "lines+markers", hoverinfo: "skip", showlegend: isFirst,
        x: at(points, x, 0), y: at(points, y, 0), line: {color: seen(style.colour), dash: style.dash, width: 1.8},
        marker: {size: 9, color: seen(style.colour), symbol: style.symbol},
      };
    });
    const losses = task => data.losses.includes(task), width = widthOf(plot);
    const plotLayout = withLegend(layout(width, heightOf(width),
      `${x}: ${arrow(losses(x), "←", "→")}`, `${y}: ${arrow(losses(y), "↓", "↑")}`), [...methods.keys(), "base model"]);
    const limits = task => {  // the intervals may reach beyond
      const values = [...at(data.points, task, 0), data.base[task]].filter(Number.isFinite);
      const [low, high] = [Math.min(...values), Math.max(...values)], room = 0.08 * (high - low) || 0.1;
      return [low - room, high + room];
    };
    plotLayout.xaxis.range = limits(x);
    plotLayout.yaxis.range = limits(y);
    const [[left, right], [low, high]] = [limits(x), limits(y)];
    const base = [data.base[x], data.base[y]].every(Number.isFinite) ? [{
      type: "scatter", name: "base model", mode: "lines", hoverinfo: "skip", line: {color: "#888", dash: "dot", width: 1},
      x: [data.base[x], data.base[x], null, left, right], y: [low, high, null, data.base[y], data.base[y]],
    }] : [];
    Plotly.react(plot, [...base, ...lines, ...marks], plotLayout, options()).then(annotate);
  }

  function annotate() {
    const [x, y] = [across.value, up.value], {xaxis, yaxis, _size: area} = plot._fullLayout;
    const shown = new Set(plot._fullData.filter(trace => trace.visible === true).map(trace => trace.name));
    const points = data.points.filter(p => shown.has(p.method)).map(p => {
      const text = area.w < 450 ? p.values : p.settings;
      return {...p, text, x: xaxis.l2p(p.scores[x][0]), y: yaxis.l2p(p.scores[y][0]), width: 5.8 * text.length + 4};
    }).filter(p => p.x >= 0 && p.x <= area.w && p.y >= 0 && p.y <= area.h);
    const place = point => ({x: xaxis.l2p(point.scores[x][0]), y: yaxis.l2p(point.scores[y][0])});
    const lines = data.lines.filter(line => shown.has(data.points[line[0]].method)).map(line => line.map(i => place(data.points[i])));
    const places = offsets(points, area, lines);
    const annotations = points.map((p, i) => ({
      x: p.scores[x][0], y: p.scores[y][0], text: p.text, ax: places[i].x, ay: places[i].y, font: {size: 10}, borderpad: 0,
      showarrow: true, arrowhead: 0, arrowwidth: 0.7, arrowcolor: seen(p.style.colour), standoff: 4,
    }));
    return Plotly.relayout(plot, {annotations});
  }

  across.onchange = up.onchange = draw;
  charts.push(draw);
  draw();
  plot.on("plotly_restyle", annotate);
  plot.on("plotly_relayout", change => Object.keys(change).some(key => key.includes("axis")) && annotate());
}

function curves(section, data) {
  const [select, plot] = [".run", ".curves"].map(part => section.querySelector(part));
  fill(select, data.map(run => run.label), (data.find(run => run.merges.length) ?? data[0]).label);

  function draw() {
    const run = data.find(candidate => candidate.label === select.value), names = Object.keys(run.lines), many = names.length > 8;
    const traces = names.map((name, i) => ({
      type: "scatter", mode: many ? "lines" : "lines+markers", name: name + (run.losses.includes(name) ? " (loss ↓)" : ""), x: run.lines[name].map(p => p[0]), y: run.lines[name].map(p => p[1]),
      line: {width: many ? 1.2 : 2, color: names.length > COLOURS.length ? `hsl(${320 * i / names.length}, 75%, 50%)` : COLOURS[i]},
      marker: {size: 5}, hovertemplate: `${name}<br>step %{x}: %{y:.3f}<extra></extra>`,
    }));
    const width = widthOf(plot), plotLayout = withLegend(layout(width, heightOf(width), "training steps",
      run.kind.replace("lower is better", "$& ↓").replace("higher is better", "$& ↑")), names);
    const at = (x, line) => ({type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line, layer: "below"});
    plotLayout.shapes = [...run.merges.map(step => at(step, {color: "#aaa", dash: "dash", width: 1})),
                         ...run.stages.slice(0, -1).map(([step]) => at(step, {color: colour("--soft"), width: 1}))];
    plotLayout.annotations = many ? [] : run.stages.slice(0, -1).map(([step, task]) => (
      {text: task, x: step, yref: "paper", y: 1, yanchor: "bottom", xanchor: "left", showarrow: false, font: {size: 11, color: colour("--soft")}}));
    Plotly.react(plot, traces, plotLayout, options());
  }
  select.onchange = draw;
  charts.push(draw);
  draw();
}

function matrix(section, data, {tasks, losses}) {
  const [select, plot] = [".setting", ".matrix"].map(part => section.querySelector(part)), all = `all ${data.length}`;
  fill(select, data.length > 1 ? [all, ...data.map(one => one.label)] : data.map(one => one.label));

  function draw() {
    const shown = select.value === all ? data : data.filter(one => one.label === select.value), one = shown.length === 1;
    const most = Math.max(...shown.map(m => m.stages.length)), letters = names => 6.2 * Math.max(...names.map(name => name.length)) + 12;
    const left = Math.min(150, letters(tasks)), bottom = Math.min(110, letters(shown.flatMap(m => m.stages)));
    const width = Math.max(widthOf(plot), one && !onPaper() ? left + 30 * most + 20 : 0);  // wider than a phone, it scrolls
    const narrowest = left + most * (most > 8 ? 12 : 30) + 12, columns = Math.max(1, Math.min(shown.length, Math.floor(width / narrowest), 6));
    const cell = Math.min(one ? 90 : 60, (width / columns - left - 12) / most), legible = cell >= 27;
    const tall = legible ? 22 : Math.max(11, Math.min(22, cell)), slanted = cell < bottom, panel = Math.min(width / columns, left + cell * most + 40);
    const kinds = [[false, "coloraxis", "score, higher is better ↑"], [true, "coloraxis2", "loss, lower is better ↓"]]
      .filter(([isLoss]) => tasks.some(task => losses.includes(task) === isLoss));
    const below = tall * tasks.length + (slanted ? 0.75 * bottom + 6 : 22), steps = tasks.map((_, k) => k);
    const ticks = {showgrid: false, zeroline: false, ticks: "", tickfont: {size: 10}};
    [...plot.children].forEach(row => Plotly.purge(row));
    plot.replaceChildren(...Array.from({length: Math.ceil(shown.length / columns)}, () => document.createElement("div")));
    [...plot.children].forEach((row, r) => {  // a chart of its own, between which paper is cut
      const part = shown.slice(r * columns, (r + 1) * columns), titles = part.map(m => wrapped(m.label, panel - 16));
      const top = (titles.some(title => title.includes("<br>")) ? 40 : 26) + (r ? 0 : 36 * kinds.length + 6);
      const height = top + below, scale = Math.min(260, width - 190), traces = [];
      const plotLayout = {...layout(width, height), margin: {l: 0, r: 0, t: 0, b: 0, autoexpand: false}, showlegend: false, dragmode: false,
                          annotations: [], shapes: []};
      kinds.forEach(([isLoss, name, title], i) => {
        const values = data.flatMap(m => m.values.filter((_, k) => losses.includes(tasks[k]) === isLoss).flat()).filter(Number.isFinite);
        const isShare = !isLoss && values.every(value => value >= 0 && value <= 1);
        plotLayout[name] = {
          colorscale: "Viridis", reversescale: isLoss, cmin: isShare ? 0 : Math.min(...values), cmax: isShare ? 1 : Math.max(...values),
          showscale: r === 0, colorbar: {
            orientation: "h", thickness: 9, lenmode: "pixels", len: scale, x: 0, xanchor: "left", xpad: 8, yref: "container",
            y: 1 - 36 * i / height, yanchor: "top", ypad: 4, tickfont: {size: 10}, outlinewidth: 0},
        };
        if (r === 0) plotLayout.annotations.push({xref: "paper", yref: "paper", x: (scale + 20) / width, y: 1 - (36 * i + 1) / height,
          xanchor: "left", yanchor: "top", showarrow: false, font: {size: 11}, text: title});
      });
      part.forEach((m, i) => {
        const id = i ? i + 1 : "", x0 = i * panel + left, x1 = x0 + cell * m.stages.length, places = m.stages.map((_, k) => k);
        plotLayout[`xaxis${id}`] = {...ticks, domain: [x0 / width, x1 / width], anchor: `y${id}`, range: [-0.5, places.length - 0.5],
          tickvals: places, ticktext: m.stages.map(name => short(name, 100)), tickangle: slanted ? -45 : 0};
        plotLayout[`yaxis${id}`] = {...ticks, domain: [1 - (top + tall * tasks.length) / height, 1 - top / height], anchor: `x${id}`,
          range: [tasks.length - 0.5, -0.5], tickvals: steps, ticktext: tasks.map(name => short(name, left - 10))};
        plotLayout.annotations.push({xref: "paper", yref: "paper", x: (x0 - left + 8) / width, y: 1 - (top - 4) / height, xanchor: "left",
          yanchor: "bottom", showarrow: false, font: {size: 11}, align: "left", text: titles[i], hovertext: m.label});
        m.own.forEach((isOwn, k) => isOwn && plotLayout.shapes.push({type: "rect", xref: `x${id}`, yref: `y${id}`, y0: k - 0.5, y1: k + 0.5,
          x0: m.stages.indexOf(tasks[k]) - 0.5, x1: m.stages.indexOf(tasks[k]) + 0.5, line: {color: colour("--ink"), width: 1.5}}));
        for (const [isLoss, coloraxis] of kinds) traces.push({
          type: "heatmap", xaxis: `x${id}`, yaxis: `y${id}`, coloraxis, x: places, y: steps, xgap: 1, ygap: 1, hoverongaps: false,
          z: m.values.map((values, k) => values.map(value => losses.includes(tasks[k]) === isLoss ? value : null)),
          customdata: tasks.map(task => m.stages.map(stage => `${task} after ${stage}`)), textfont: {size: 10},
          hovertemplate: `<b>${m.label}</b><br>%{customdata}: %{z:.3f}<br>${m.runs} run${m.runs > 1 ? "s" : ""}<extra></extra>`,
          ...(legible ? {texttemplate: "%{z:.2f}"} : {}),
        });
      });
      Plotly.newPlot(row, traces, plotLayout, {...options(), displayModeBar: false});
    });
  }
  select.onchange = draw;
  charts.push(draw);
  draw();
}

DATA.forEach((content, i) => {
  const section = document.getElementById(`section${i}`);
  plane(section, content.plane);
  curves(section, content.curves);
  matrix(section, content.matrices, content.plane);
});

const drawAll = () => charts.forEach(draw => draw());
let waiting, opened = [];
dark.addEventListener("change", drawAll);
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 100); });
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("paper");
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(part => { part.open = true; });
  drawAll();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("paper");
  opened.forEach(part => { part.open = false; });
  drawAll();
});
