for (const box of document.querySelectorAll(".frames")) {
  const [range, output, button] = ["input", "output", "button"].map((n) => box.querySelector(n));
  const images = [...box.querySelectorAll("img")];
  let timer = 0;
  const show = () => {
    images.forEach((image, i) => { image.hidden = i !== Number(range.value); });
    const label = images[range.value].dataset.label;
    output.value = label;
    range.setAttribute("aria-valuetext", label);
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  const next = () => {
    range.value = Number(range.value) + 1;
    show();
    if (Number(range.value) === images.length - 1) stop();
  };
  range.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (Number(range.value) === images.length - 1) range.value = 0;
    show();
    button.textContent = "Stop";
    timer = setInterval(next, 3000 / images.length);
  });
}
