// The viewer of one slide: a pyramid of tiles described inline, one score over it, buttons, keys, a scale bar.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("slide-data").textContent);
  const stage = document.getElementById("stage");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  // Pages from disk may not read pixels of images back, so that the plain canvas drawer is the one that works.
  const viewer = OpenSeadragon({
    element: stage,
    drawer: "canvas",
    crossOriginPolicy: false,
    showNavigationControl: false,
    animationTime: still ? 0 : 0.5,
    immediateRender: still,
    maxZoomPixelRatio: 4,
    visibilityRatio: 0.5,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    tileSources: {
      width: data.width,
      height: data.height,
      tileSize: data.tile_px,
      minLevel: data.min_level,
      maxLevel: data.max_level,
      getTileUrl: (level, x, y) => `${data.tiles}/${level}/${x}_${y}.jpg`,
    },
  });
  const say = document.getElementById("where");
  const bar = document.createElement("div");
  bar.className = "scale";
  stage.append(bar);

  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute("aria-label", stage.dataset.label);
  viewer.canvas.setAttribute("aria-roledescription", "slide viewer");

  const zoomBy = (factor) => {
    viewer.viewport.zoomBy(factor, undefined, still);
    viewer.viewport.applyConstraints(still);
  };
  document.getElementById("zoom-in").addEventListener("click", () => zoomBy(1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoomBy(1 / 1.6));
  document.getElementById("home").addEventListener("click", () => viewer.viewport.goHome(still));

  // Micrometres per pixel of the screen, and a bar of a round length of at most 120 px.
  const measure = (told) => {
    const slide = viewer.world.getItemAt(0);
    if (!slide) return;
    const zoom = slide.viewportToImageZoom(viewer.viewport.getZoom(true));
    const mpp = data.mpp / zoom;
    const power = 10 ** Math.floor(Math.log10(120 * mpp));
    const length = [5, 2, 1].map((step) => step * power).find((step) => step <= 120 * mpp);
    bar.style.width = `${length / mpp}px`;
    bar.textContent = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
    if (told) say.textContent = `${mpp.toFixed(2)} µm per pixel of the screen`;
  };
  viewer.addHandler("animation", () => measure(false));
  viewer.addHandler("animation-finish", () => measure(true));
  viewer.addHandler("open", () => {
    measure(true);
    show();
    stage.dataset.state = "open";
  });

  const select = document.getElementById("score");
  const slider = document.getElementById("opacity");
  const legend = document.getElementById("legend");
  let over = null;
  let wanted = 0;
  const show = () => {
    if (!select) return;
    const turn = ++wanted;
    if (over) viewer.world.removeItem(over);
    over = null;
    const score = data.scores[select.value];
    legend.hidden = !score;
    if (!score) return;
    document.getElementById("legend-low").textContent = score.low;
    document.getElementById("legend-high").textContent = score.high;
    document.getElementById("legend-bar").style.background = `linear-gradient(to right, ${score.colours})`;
    const width = 1000 * score.width;
    viewer.addTiledImage({
      tileSource: {
        width,
        height: width / score.aspect,
        tileSize: Math.ceil(Math.max(width, width / score.aspect)),
        minLevel: 0,
        maxLevel: 0,
        getTileUrl: () => score.file,
      },
      width: score.width,
      opacity: slider.value / 100,
      success: (event) => {
        if (turn !== wanted) viewer.world.removeItem(event.item);
        else over = event.item;
      },
    });
  };
  if (select) {
    select.addEventListener("change", show);
    slider.addEventListener("input", () => over && over.setOpacity(slider.value / 100));
  }

  for (const button of document.querySelectorAll("button.show")) {
    button.addEventListener("click", () => {
      const [x, y, side] = ["x", "y", "side"].map((key) => Number(button.dataset[key]) / data.downsample);
      const rectangle = viewer.world.getItemAt(0).imageToViewportRectangle(x - side, y - side, 3 * side, 3 * side);
      viewer.viewport.fitBounds(rectangle, still);
      stage.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
      viewer.canvas.focus({ preventScroll: true });
    });
  }
})();
