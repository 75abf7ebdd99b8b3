"use strict";
// Numbers with the digits that are known, like neuneu/core/formatting.py, for values that are only
// known in the page. A test compares both.

const WIDE = 0.1;

// Like Python's f"{value:.1f}": exact halves go to the even digit, where toFixed goes up.
function fixed(value, digits) {
  const [whole, rest] = Math.abs(value).toFixed(60).split(".");
  const last = digits ? rest[digits - 1] : whole.at(-1);
  if (!/^50*$/.test(rest.slice(digits)) || "13579".includes(last)) return value.toFixed(digits);
  const kept = digits ? `${whole}.${rest.slice(0, digits)}` : whole;
  return value < 0 ? `-${kept}` : kept;
}

// Like Python's float(f"{value:.2g}").
function significant(value, digits) {
  const [mantissa, exponent] = Math.abs(value).toExponential(60).split("e");
  const rest = mantissa.replace(".", "").slice(digits);
  const last = mantissa.replace(".", "")[digits - 1];
  if (!/^50*$/.test(rest) || "13579".includes(last)) return Number(value.toPrecision(digits));
  const kept = Number(`${mantissa.slice(0, digits === 1 ? 1 : digits + 1)}e${exponent}`);
  return value < 0 ? -kept : kept;
}

function points(value, width) {
  return fixed(100 * value, width > WIDE ? 0 : 1);
}

function score(value, width, unit) {
  if (unit === "%") return points(value, width);
  const [size, digits] = width > 0 ? [width, 2] : [Math.abs(value), 4];
  const known = size === 0 ? 0 : Math.max(0, Math.min(6, digits - 1 - Math.floor(Math.log10(size))));
  return fixed(value, known);
}

function percent(probability) {
  if (probability < 0.01) return "<1 %";
  if (probability > 0.99) return ">99 %";
  return `${fixed(100 * probability, 0)} %`;
}

function formatCount(value) {
  for (const [unit, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (Math.abs(value) >= unit * 0.9995) return `${significant(value / unit, 3)}${suffix}`;
  }
  return `${significant(value, 3)}`;
}

function tokens(value) {
  return formatCount(significant(value, 2));
}
