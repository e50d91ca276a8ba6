//! `insns OBJECT`: loads each program of a BPF object and prints how many instructions the
//! verifier walked through for it, then the same for those of dry runs, behind `dry:`. `cargo xtask
//! tidy` holds these against `lb-ebpf/budgets.txt`.

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, EbpfLoader, programs::Program};
use lb_common::{dry_run, maps::programs};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: insns OBJECT")?;
    let open = |loader: &mut EbpfLoader<'_>| {
        let object: Result<Ebpf, _> = loader.load_file(&path);
        object.with_context(|| format!("cannot load {path}"))
    };
    for (name, program) in open(&mut EbpfLoader::new())?.programs_mut() {
        let count = verified_instructions(program)
            .with_context(|| format!("cannot load program {name} of {path}"))?;
        println!("{name} {count}");
    }
    let mut dry = open(EbpfLoader::new().override_global(dry_run::GLOBAL, &1_u32, true))?;
    for name in programs::DRY {
        let program = dry.program_mut(name).context("there is none")?;
        let count = verified_instructions(program)
            .with_context(|| format!("cannot load program {name} of {path} for dry runs"))?;
        println!("dry:{name} {count}");
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
