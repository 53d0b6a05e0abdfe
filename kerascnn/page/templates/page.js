"use strict";
// Without this script the page shows the same: legends hold the last epoch's values,
// and a cell's link leads to its images.

function follow(plot) {
  const svg = plot.querySelector("svg");
  const chart = JSON.parse(svg.dataset.chart);
  const cursor = svg.querySelector(".cursor");
  const now = [...plot.querySelectorAll(".now")];
  const at = plot.querySelector(".at");
  const last = chart.x.length - 1;
  let shown = last;
  function show(index) {
    shown = Math.min(Math.max(index, 0), last);
    at.textContent = chart.at[shown];
    now.forEach((entry, n) => { entry.textContent = chart.values[n][shown]; });
    cursor.setAttribute("x1", chart.x[shown]);
    cursor.setAttribute("x2", chart.x[shown]);
  }
  function point(event) {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const away = chart.x.map((each) => Math.abs(each - x));
    cursor.classList.add("on");
    show(away.indexOf(Math.min(...away)));
  }
  function leave() {
    cursor.classList.remove("on");
    show(last);
  }
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: last };
    if (!(event.key in steps)) return;
    event.preventDefault();
    cursor.classList.add("on");
    show(steps[event.key]);
  });
}

function openCells(table) {
  const links = [...table.querySelectorAll("a[data-cell]")];
  let chosen = null;
  function close() {
    document.querySelectorAll(".cell.open").forEach((each) => {
      each.classList.remove("open");
    });
    if (chosen) chosen.removeAttribute("aria-current");
  }
  function enter(link) {
    links.forEach((each) => { each.tabIndex = each === link ? 0 : -1; });
  }
  links.forEach((link) => {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      close();
      chosen = link;
      link.setAttribute("aria-current", "true");
      enter(link);
      const cell = document.getElementById(link.hash.slice(1));
      cell.classList.add("open");
      const box = cell.getBoundingClientRect();
      if (box.bottom > window.innerHeight || box.top < 0) {
        cell.scrollIntoView({ block: "nearest" });
      }
    });
    link.addEventListener("keydown", (event) => {
      const moves = {
        ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      };
      if (event.key === "Escape") close();
      if (!(event.key in moves)) return;
      event.preventDefault();
      const [down, right] = moves[event.key];
      let row = link.closest("tr").rowIndex;
      let column = link.closest("td").cellIndex;
      for (;;) {
        row += down;
        column += right;
        const cell = table.rows[row] && table.rows[row].cells[column];
        if (!cell) return;
        const found = cell.querySelector("a[data-cell]");
        if (found) {
          enter(found);
          found.focus();
          return;
        }
      }
    });
  });
  if (links.length) enter(links[0]);
}

document.querySelectorAll(".plot").forEach(follow);
document.querySelectorAll("table.confusion").forEach(openCells);
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
});
