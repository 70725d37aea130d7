"use strict";
const form = document.getElementById("choice");
const boxes = [...form.querySelectorAll("input")];

function show() {
  for (const box of boxes)
    for (const part of document.querySelectorAll(box.dataset.shows))
      part.classList.toggle("off", !box.checked);
  const arms = boxes.filter((box) => box.name === "group");
  const shown = arms.filter((box) => box.checked).length;
  document.getElementById("chosen").textContent =
    shown < arms.length ? ` (${shown} of ${arms.length} arms)` : "";
}

// The address holds what is left out, so that a link shows the same.
function write() {
  const left = new URLSearchParams();
  for (const box of boxes) if (!box.checked) left.append(box.name, box.value);
  history.replaceState(null, "", left.size ? `#without&${left}` : "#");
}

function read() {
  if (location.hash.length > 1 && !location.hash.startsWith("#without")) return show();
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const box of boxes) box.checked = !parts.getAll(box.name).includes(box.value);
  show();
}

form.addEventListener("change", () => { show(); write(); });
form.addEventListener("click", ({ target: { dataset } }) => {
  const kind = dataset.all ?? dataset.none;
  if (kind === undefined) return;
  for (const box of boxes) if (box.name === kind) box.checked = "all" in dataset;
  show();
  write();
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", read);
document.documentElement.classList.add("scripted");
document.querySelector("aside details").open = matchMedia("(min-width: 64rem)").matches;
read();
