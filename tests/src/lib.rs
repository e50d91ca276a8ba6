//! tests/src/lib.rs
