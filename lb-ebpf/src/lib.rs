//! lb-ebpf/src/lib.rs
