//! Compiling fixtures, and running linked modules inside the test process.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engraft_module::{
    CompileError, CompileRequest, Compiled, Layout, LinkError, Linked, PatchModule, Placement,
    Reference, Resolve, ResolveError, Resolved, Scope, compile, link,
};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Compiles fixtures into a module of the given name, and returns its bytes too.
pub fn try_build(
    sources: &[PathBuf],
    name: &str,
    flags: &[&str],
) -> Result<(Compiled, Vec<u8>), CompileError> {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join(format!("{name}.lp"));
    let compiled = compile(&CompileRequest {
        sources: sources.to_vec(),
        output: output.clone(),
        flags: flags.iter().map(Into::into).collect(),
        ..CompileRequest::default()
    })?;
    Ok((compiled, std::fs::read(output).unwrap()))
}

pub fn build(source: &str, flags: &[&str]) -> PatchModule {
    let name = Path::new(source).file_stem().unwrap().to_str().unwrap();
    try_build(&[fixture(source)], name, flags)
        .unwrap_or_else(|error| panic!("{error}"))
        .0
        .module
}

/// Compiles source text.
pub fn build_text(
    text: &str,
    extension: &str,
    flags: &[&str],
) -> Result<PatchModule, CompileError> {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join(format!("source.{extension}"));
    std::fs::write(&source, text).unwrap();
    try_build(&[source], "text", flags).map(|(compiled, _)| compiled.module)
}

/// Compiles a fixture with a compiler of choice, without the headers.
pub fn build_with(compiler: &str, source: &str, flags: &[&str]) -> PatchModule {
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("other.o");
    let status = std::process::Command::new(compiler)
        .args([
            "-c",
            "-O2",
            "-fPIC",
            "-ffunction-sections",
            "-fdata-sections",
        ])
        .args(flags)
        .arg("-o")
        .args([object.clone(), fixture(source)])
        .status()
        .unwrap();
    assert!(status.success());
    PatchModule::parse(&std::fs::read(object).unwrap(), "other.lp").unwrap()
}

/// Assembles source text, without what `compile` would refuse before.
pub fn assemble(text: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source.s");
    let object = directory.path().join("source.o");
    std::fs::write(&source, text).unwrap();
    let status = std::process::Command::new("cc")
        .arg("-c")
        .arg("-o")
        .args([&object, &source])
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(object).unwrap()
}

/// Binds names from a table.
#[derive(Default)]
pub struct Names(pub HashMap<String, Resolved>);

impl Names {
    pub fn of<const N: usize>(names: [(&str, Resolved); N]) -> Self {
        Self(names.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

impl Resolve for Names {
    fn resolve(&self, reference: &Reference) -> Result<Resolved, ResolveError> {
        match self.0.get(&reference.name) {
            Some(resolved) => Ok(*resolved),
            None if matches!(reference.scope, Scope::Object(_)) => Ok(Resolved::Absent),
            None => Err("not found in symbol table".into()),
        }
    }
}

/// A module linked into memory of this process.
pub struct Loaded {
    pub linked: Linked,
    address: usize,
    size: usize,
}

impl Loaded {
    /// Maps room near `hint` (anywhere for 0), links and copies the module there.
    pub fn load(
        module: &PatchModule,
        hint: usize,
        resolver: &dyn Resolve,
    ) -> Result<Self, LinkError> {
        let layout = Layout::of(module);
        let page = |size: u64| (size.max(1)).next_multiple_of(4096);
        let text = page(layout.text.size);
        let read_only = page(layout.read_only.size);
        let size = (text + read_only + page(layout.data.size)) as usize;
        let address = map(hint, size);
        let placement = Placement {
            text: address as u64,
            read_only: address as u64 + text,
            data: address as u64 + text + read_only,
        };
        let linked = link(module, &placement, resolver)?;
        let mut loaded = Self {
            linked,
            address,
            size,
        };
        loaded.fill();
        Ok(loaded)
    }

    /// Copies the linked bytes, asks resolvers, and takes the write permissions away.
    fn fill(&mut self) {
        let placement = self.linked.placement;
        for (address, bytes) in [
            (placement.text, &self.linked.text),
            (placement.read_only, &self.linked.read_only),
            (placement.data, &self.linked.data),
        ] {
            // SAFETY: the regions lie in the fresh mapping, which was sized for them.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
            }
        }
        // Before the resolvers are asked, since the module may define one.
        self.protect(
            placement.text,
            placement.read_only,
            libc::PROT_READ | libc::PROT_EXEC,
        );
        for fixup in &self.linked.ifuncs {
            // SAFETY: the test gave the address of a function of this type as the resolver,
            // and the fixup lies in the fresh mapping.
            unsafe {
                let resolver: extern "C" fn() -> u64 = std::mem::transmute(fixup.resolver as usize);
                let value = resolver().wrapping_add_signed(fixup.addend);
                (fixup.address as *mut u64).write_unaligned(value);
            }
        }
        self.protect(placement.read_only, placement.data, libc::PROT_READ);
    }

    fn protect(&self, start: u64, end: u64, protection: i32) {
        // SAFETY: the range is part of the mapping that `load` made.
        let result = unsafe { libc::mprotect(start as *mut _, (end - start) as usize, protection) };
        assert_eq!(result, 0);
    }

    /// The address of a symbol as a function of type `F`.
    ///
    /// # Safety
    ///
    /// `F` must be the `extern "C" fn` type of the symbol, and not outlive `self`.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> F {
        let address = self.linked.symbol(name).expect(name) as usize;
        assert_eq!(size_of::<F>(), size_of::<usize>());
        // SAFETY: by the caller's promise.
        unsafe { std::mem::transmute_copy(&address) }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own.
        unsafe { libc::munmap(self.address as *mut _, self.size) };
    }
}

fn map(hint: usize, size: usize) -> usize {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    if hint == 0 {
        // SAFETY: a new mapping touches nobody's memory.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(address, libc::MAP_FAILED);
        return address as usize;
    }
    for step in 1..1024 {
        let wanted = (hint & !0xfff) + step * (1 << 20);
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
        let address = unsafe { libc::mmap(wanted as *mut _, size, protection, flags, -1, 0) };
        if address != libc::MAP_FAILED {
            return address as usize;
        }
    }
    panic!("no room near {hint:#x}");
}
