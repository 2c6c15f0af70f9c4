"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (s) => [...document.querySelectorAll(s)];
  const put = (tag, text, cls) => {
    const e = document.createElement(tag);
    e.textContent = text;
    if (cls) e.className = cls;
    return e;
  };
  document.body.classList.add("ready");

  // The stepper: forward, then backward.
  const steps = data.steps, say = document.getElementById("say");
  if (say) {
    const slider = document.getElementById("slider");
    slider.max = steps.length - 1;
    const show = (k) => {
      const s = steps[k];
      slider.value = k;
      slider.setAttribute("aria-valuetext", s.title);
      all("svg.g .on").forEach((e) => e.classList.remove("on"));
      all("svg.g .mark").forEach((e) => (e.textContent = ""));
      for (const e of all("svg.g .node")) if (e.dataset.node === s.node) e.classList.add("on");
      if (s.to) {
        for (const e of all("svg.g .edge, svg.g .mark"))
          if (e.dataset.tail === s.to && e.dataset.head === s.node) {
            e.classList.add("on");
            if (e.tagName === "text") e.textContent = s.short;
          }
        for (const e of all("svg.g .node")) if (e.dataset.node === s.to) e.classList.add("on");
      }
      say.replaceChildren(put("p", `${k + 1} of ${steps.length}: ${s.title}`, "strong"));
      for (const line of s.lines) say.append(put("p", line, "t"));
    };
    const move = (by) => show(Math.min(steps.length - 1, Math.max(0, +slider.value + by)));
    slider.addEventListener("input", () => show(+slider.value));
    document.getElementById("back").addEventListener("click", () => move(-1));
    document.getElementById("next").addEventListener("click", () => move(1));
    document.addEventListener("keydown", (e) => {
      if (e.target === slider || e.altKey || e.ctrlKey || e.metaKey) return;
      if (e.key === "ArrowRight") move(1);
      else if (e.key === "ArrowLeft") move(-1);
      else return;
      e.preventDefault();
    });
    show(Math.min(steps.length, +location.hash.slice(6) || 1) - 1); // page.html#step=4
  }

  // A number of a gradient: what it is the sum of.
  const sum = document.getElementById("sum");
  const number = (x) => (typeof x === "number" ? String(+x.toPrecision(data.precision)) : x);
  const signed = (x) => (x < 0 ? `(${number(x)})` : number(x));
  const walk = (value, at = []) =>
    Array.isArray(value) ? value.flatMap((v, i) => walk(v, [...at, i])) : [[at, value]];
  const spot = (name, at) => (at.length ? `${name}[${at}]` : name);
  const choose = (button) => {
    all(".lit").forEach((e) => e.classList.remove("lit"));
    button.classList.add("lit");
    const name = button.dataset.of, index = JSON.parse(button.dataset.at);
    const jacobian = data.jacobian[name];
    const terms = [];
    if (jacobian) {
      const v = new Map(walk(data.v).map(([at, x]) => [String(at), x]));
      for (const [at, slope] of walk(jacobian)) {
        const out = at.slice(0, data.rank);
        if (String(at.slice(data.rank)) !== String(index)) continue;
        if (!slope || !v.get(String(out))) continue;
        terms.push(`${signed(v.get(String(out)))}·${signed(slope)}`);
        for (const e of all("table.j td"))
          if (e.dataset.c === spot(name, index) && e.dataset.r === spot(data.output, out)) e.classList.add("lit");
        for (const e of all(".t [data-of]"))
          if (e.dataset.of === data.vname && e.dataset.at === JSON.stringify(out)) e.classList.add("lit");
      }
    } else {
      for (const s of steps) {
        if (s.to !== name || !s.value) continue;
        const x = walk(s.value).find(([at]) => String(at) === String(index));
        if (x) terms.push(`(from ${s.expression}) ${signed(x[1])}`);
      }
    }
    const total = button.textContent.trim();
    sum.textContent = `${spot(name + ".grad", index)} = ${terms.join(" + ") || "0"}` +
      (terms.length > 1 || terms[0] !== total ? ` = ${total}` : "");
  };
  all("button.n").forEach((b) => b.addEventListener("click", () => choose(b)));
})();
