//! `insns OBJECT`: loads each program of a BPF object and prints how many instructions the
//! verifier walked through for it. `cargo xtask tidy` holds these against `lb-ebpf/budgets.txt`.

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, programs::Program};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: insns OBJECT")?;
    let mut object = Ebpf::load_file(&path).with_context(|| format!("cannot load {path}"))?;
    for (name, program) in object.programs_mut() {
        let count = verified_instructions(program)
            .with_context(|| format!("cannot load program {name} of {path}"))?;
        println!("{name} {count}");
    }
    Ok(())
}

fn verified_instructions(program: &mut Program) -> Result<u32> {
    match program {
        Program::Xdp(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        other => bail!("programs of type {:?} are not expected", other.prog_type()),
    }
    let count = program.info()?.verified_instruction_count();
    count.context("this kernel does not tell verified instructions (5.16 does)")
}
