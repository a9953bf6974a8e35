"use strict";
/* Keyboard, and light or dark. Every page works without this file. */

const root = document.documentElement;
const stored = () => { try { return localStorage.getItem("tfgrpo-theme"); } catch { return null; } };
const known = ["light", "dark"];
if (known.includes(stored())) root.dataset.theme = stored();

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function toggleTheme() {
  const next = isDark() ? "light" : "dark";
  root.dataset.theme = next;
  try { localStorage.setItem("tfgrpo-theme", next); } catch { /* private windows: for this page only */ }
}

function rows() { return [...document.querySelectorAll("[data-row]")]; }

function move(step) {
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((row) => row.classList.contains("at"));
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
  if (at >= 0) all[at].classList.remove("at");
  const row = all[next];
  row.classList.add("at");
  const link = row.querySelector("a[href]");
  if (link) link.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
}

function help() {
  const dialog = document.getElementById("help");
  if (dialog.open) dialog.close(); else dialog.showModal();
}

const actions = {
  "/": () => { const field = document.getElementById("search"); if (field) { field.focus(); field.select(); } },
  j: () => move(1),
  k: () => move(-1),
  n: () => follow("a[rel=next]"),
  p: () => follow("a[rel=prev]"),
  t: toggleTheme,
  "?": help,
  1: () => follow("nav a[href='/']:not(.brand)"),
  2: () => follow("nav a[href='/versions']"),
  3: () => follow("nav a[href='/runs']"),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest && event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (document.getElementById("help").open && event.key !== "?") return;
  const action = actions[event.key];
  if (action) { event.preventDefault(); action(); }
}

document.addEventListener("DOMContentLoaded", () => {
  root.classList.add("script");
  document.getElementById("theme").addEventListener("click", toggleTheme);
  document.getElementById("keys").addEventListener("click", help);
  document.addEventListener("keydown", pressed);
  for (const choice of document.querySelectorAll("form.search select")) {
    choice.addEventListener("change", () => choice.form.requestSubmit());
  }
});
