//! `import` on a bench.
