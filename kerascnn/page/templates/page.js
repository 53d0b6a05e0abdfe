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
  const home = table.closest(".body").querySelector(".cells");
  // The chosen cell's images stand in a row of their own, below the cell's.
  const below = document.createElement("tr");
  const place = below.appendChild(document.createElement("td"));
  place.className = "images";
  place.colSpan = table.rows[0].cells.length;
  let chosen = null;
  function close() {
    [...place.children].forEach((each) => {
      each.classList.remove("open");
      home.append(each);
    });
    below.remove();
    if (chosen) chosen.removeAttribute("aria-current");
    chosen = null;
  }
  function enter(link) {
    links.forEach((each) => { each.tabIndex = each === link ? 0 : -1; });
  }
  links.forEach((link) => {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const top = link.getBoundingClientRect().top;
      const again = link === chosen;
      close();
      enter(link);
      if (!again) {
        chosen = link;
        link.setAttribute("aria-current", "true");
        const cell = document.getElementById(link.hash.slice(1));
        cell.classList.add("open");
        place.append(cell);
        link.closest("tr").after(below);
      }
      // What closes above must not move the cell away from the pointer.
      window.scrollBy({ top: link.getBoundingClientRect().top - top, behavior: "instant" });
    });
    link.addEventListener("keydown", (event) => {
      const moves = {
        ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      };
      if (event.key === "Escape") close();
      if (!(event.key in moves)) return;
      event.preventDefault();
      const [down, right] = moves[event.key];
      const rows = [...table.rows].filter((each) => each !== below);
      let row = rows.indexOf(link.closest("tr"));
      let column = link.closest("td").cellIndex;
      for (;;) {
        row += down;
        column += right;
        const cell = rows[row] && rows[row].cells[column];
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
