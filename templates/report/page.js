// A click on a heading sorts its table by that column, and a second click in the other direction.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[heading.cellIndex].dataset.value ?? row.cells[heading.cellIndex].textContent;
    const order = (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
    const number = (a, b) => parseFloat(value(a) || "-Infinity") - parseFloat(value(b) || "-Infinity");
    const compare = heading.classList.contains("number") ? number : order;
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...rows);
  });
}
