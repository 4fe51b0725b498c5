"use strict";

const slider = document.getElementById("opacity");
const mask = document.getElementById("layer-mask");
const shown = document.getElementById("opacity-shown");

function fade() {
  mask.setAttribute("opacity", slider.value / 100);
  shown.textContent = `${slider.value} %`;
}
slider.addEventListener("input", fade);
fade();

for (const box of document.querySelectorAll("input[data-layer]")) {
  const layer = document.getElementById(box.dataset.layer);
  const toggle = () => { layer.style.display = box.checked ? "inline" : "none"; };
  box.addEventListener("change", toggle);
  toggle();
}
