//! The objects that are mapped in a target: its executable and its libraries.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engraft_elf::{
    Identity, Image, Segment, SymbolFile, SymbolTable, build_id_path, debug_link_paths,
};
use engraft_module::PatchModule;
use engraft_process::{ArenaPlan, Mapping, open_shared};
use engraft_unwind::{Cfi, ReadMemory, Section};
use nix::errno::Errno;

use crate::attached::Attached;
use crate::error::Error;
use crate::loader;
use crate::space::Span;

/// Bytes of an entry in the search table of .eh_frame_hdr (LSB Core, "DWARF Extensions").
const TABLE_ENTRY: u64 = 8;

const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");

/// One object as it is mapped.
pub(crate) struct LoadedObject {
    /// File name without directories.
    pub(crate) name: String,
    /// Path as the target sees it, without a trailing " (deleted)".
    path: String,
    process: i32,
    /// Where its file can be opened, below /proc/PID.
    file: String,
    inode: u64,
    pub(crate) is_main: bool,
    pub(crate) image: Image,
    symbol_file: OnceCell<Option<SymbolFile>>,
    symbols: OnceCell<SymbolTable>,
    cfi: OnceCell<Option<Arc<Cfi>>>,
    undescribed: OnceCell<Arc<[Range<u64>]>>,
}

impl LoadedObject {
    /// Its call frame information, read once. Static executables have no program header for
    /// it, but a section in their file.
    pub(crate) fn cfi(&self, memory: &dyn ReadMemory, maps: &[Mapping]) -> Option<Arc<Cfi>> {
        let read = || match &self.image.eh_frame_hdr {
            Some(header) => {
                let mapping = maps.iter().find(|mapping| mapping.contains(header.start))?;
                Cfi::read(memory, header.clone(), mapping.start..mapping.end).ok()
            }
            None => {
                let range = self.symbol_file()?.section_in(".eh_frame", &self.image)?;
                let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
                memory.read(range.start, &mut bytes).ok()?;
                Some(Cfi::new(
                    Section {
                        address: range.start,
                        bytes: bytes.into(),
                    },
                    None,
                ))
            }
        };
        self.cfi.get_or_init(|| read().map(Arc::new)).clone()
    }

    /// Its symbols: from memory, from its file if that is still the one that is mapped, and
    /// from a separate debug file.
    pub(crate) fn symbols(&self) -> &SymbolTable {
        self.symbols
            .get_or_init(|| SymbolTable::new(&self.name, &self.image, self.symbol_file()))
    }

    /// Its functions, if call frame information does not describe all of them: sorted, without
    /// parts that are jumped to and without what lies inside another function.
    pub(crate) fn undescribed_functions(&self) -> Arc<[Range<u64>]> {
        let list = || {
            let symbols = self.symbols().symbols().iter();
            let functions = symbols.filter(|symbol| {
                let placed = symbol.is_function() && symbol.defined && symbol.size > 0;
                placed && !symbol.name.contains(".cold")
            });
            let mut ranges: Vec<Range<u64>> = functions
                .map(|symbol| symbol.address..symbol.address.saturating_add(symbol.size))
                .collect();
            ranges.sort_unstable_by_key(|range| (range.start, Reverse(range.end)));
            let mut end = 0;
            ranges.retain(|range| {
                let outside = range.start >= end;
                end = end.max(range.end);
                outside
            });
            let header = self.image.eh_frame_hdr.as_ref();
            let described = header.map_or(0, |header| (header.end - header.start) / TABLE_ENTRY);
            if described >= ranges.len() as u64 {
                ranges.clear();
            }
            ranges.into()
        };
        Arc::clone(self.undescribed.get_or_init(list))
    }

    /// Its sections of stubs that lead to other objects, where a file names them.
    pub(crate) fn plt_sections(&self) -> Vec<Range<u64>> {
        let Some(file) = self.symbol_file() else {
            return Vec::new();
        };
        let names = file.sections.iter().map(|section| section.name.as_str());
        names
            .filter(|name| name.starts_with(".plt") || *name == ".iplt")
            .filter_map(|name| file.section_in(name, &self.image))
            .collect()
    }

    /// Name of the section that an address lies in, where a file says so.
    pub(crate) fn section_at(&self, address: u64) -> Option<&str> {
        let offset = address.wrapping_sub(self.image.bias);
        let mut sections = self.symbol_file()?.sections.iter();
        let section =
            sections.find(|section| offset.wrapping_sub(section.address) < section.size)?;
        Some(&section.name)
    }

    fn symbol_file(&self) -> Option<&SymbolFile> {
        self.symbol_file
            .get_or_init(|| self.find_symbol_file())
            .as_ref()
    }

    fn find_symbol_file(&self) -> Option<SymbolFile> {
        let own = self.read_own_file();
        if own.as_ref().is_some_and(|file| file.complete) {
            return own;
        }
        let by_id = self.image.build_id.as_ref().map(build_id_path);
        let link = own.as_ref().and_then(|file| file.debug_link.as_ref());
        let by_link = link.map(|link| debug_link_paths(Path::new(&self.path), link));
        by_id
            .into_iter()
            .chain(by_link.into_iter().flatten())
            .find_map(|path| self.read_matching(&path))
            .or(own)
    }

    /// Bytes of its file that are mapped at an address, if it is still the one that is mapped.
    pub(crate) fn bytes_in_file(&self, segment: &Segment, address: u64) -> Option<Vec<u8>> {
        let file = open_shared(self.process, &self.file).ok()?;
        if file.metadata().ok()?.ino() != self.inode {
            return None;
        }
        let mut bytes = vec![0; ArenaPlan::CODE_ROOM];
        let offset = segment.file_offset + address.checked_sub(segment.address)?;
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// The file itself describes the image if it is the mapped inode, build-id or not.
    fn read_own_file(&self) -> Option<SymbolFile> {
        let mut file = open_shared(self.process, &self.file).ok()?;
        let mapped = file.metadata().ok()?.ino() == self.inode;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let file = SymbolFile::parse(&bytes).ok()?;
        (mapped || self.is_described_by(&file)).then_some(file)
    }

    fn read_matching(&self, path: &Path) -> Option<SymbolFile> {
        let file = SymbolFile::parse(&fs::read(path).ok()?).ok()?;
        self.is_described_by(&file).then_some(file)
    }

    fn is_described_by(&self, file: &SymbolFile) -> bool {
        matches!(file.compare(&self.image), Identity::Same)
    }

    /// The addresses from the first segment to the last.
    pub(crate) fn span(&self) -> Span {
        let start = self
            .image
            .segments
            .iter()
            .map(|s| s.address)
            .min()
            .unwrap_or(0);
        let end = self
            .image
            .segments
            .iter()
            .map(|s| s.address + s.size)
            .max()
            .unwrap_or(0);
        Span {
            start,
            size: end - start,
        }
    }

    /// Whether a patch's object name means this object: its file name, its soname, or either
    /// without `.so` and what follows, `-` and `_` being the same there, as for modules.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let own = [Some(self.name.as_str()), self.image.soname.as_deref()];
        own.into_iter()
            .flatten()
            .any(|own| own == name || stem(own) == stem(name))
    }
}

/// An object's name without `.so` and what follows, `-` and `_` being the same.
pub(crate) fn stem(name: &str) -> String {
    name.split(".so").next().unwrap_or(name).replace('-', "_")
}

/// All objects of a target.
pub(crate) struct Objects {
    list: Vec<LoadedObject>,
    /// Where files were mapped: address and inode.
    files: Vec<(u64, u64)>,
}

impl Objects {
    /// Finds the objects by their mappings, which come along. What cannot be read as an object
    /// is left out: it is then unknown code to the unwinder and has no symbols.
    pub(crate) fn read(process: &Attached) -> Result<(Self, Vec<Mapping>), Error> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let maps = process.maps()?;
            let list = Self::list(process, &maps);
            let waited = Instant::now() > deadline;
            if let Some(main) = list.iter().find(|object| object.is_main) {
                let at_work = loader::is_at_work(&process.memory, &main.image);
                // It may have been at work until a moment ago.
                let complete = || Ok::<_, Error>(files(&process.maps()?).eq(files(&maps)));
                if waited || (!at_work && complete()?) {
                    let files = files(&maps).collect();
                    return Ok((Self { list, files }, maps));
                }
            }
            process.memory.check_alive()?;
            if waited {
                return Err(Error::other(
                    "look at the target's objects",
                    Errno::ENOEXEC,
                    "its main executable cannot be found in memory",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether nothing has come or gone since they were found.
    pub(crate) fn are_current(&self, process: &Attached) -> Result<bool, Error> {
        Ok(files(&process.maps()?).eq(self.files.iter().copied()))
    }

    fn list(process: &Attached, maps: &[Mapping]) -> Vec<LoadedObject> {
        let main_headers = read_auxv(process.pid, AT_PHDR);
        let mut list = Vec::new();
        for mapping in maps
            .iter()
            .filter(|mapping| mapping.read && may_start_object(mapping))
        {
            if process.memory.read::<u32>(mapping.start).ok() != Some(ELF_MAGIC) {
                continue;
            }
            let Ok(image) = Image::from_memory(&process.memory, mapping.start) else {
                continue;
            };
            let is_main = main_headers.is_some_and(|address| image.contains(address));
            let path = mapping
                .path
                .strip_suffix(" (deleted)")
                .unwrap_or(&mapping.path)
                .to_owned();
            let file = if is_main {
                "exe".to_owned()
            } else {
                locate_file(process.pid, mapping)
            };
            list.push(LoadedObject {
                name: path.rsplit('/').next().unwrap_or(&path).to_owned(),
                path,
                process: process.pid,
                file,
                inode: mapping.inode,
                is_main,
                image,
                symbol_file: OnceCell::new(),
                symbols: OnceCell::new(),
                cfi: OnceCell::new(),
                undescribed: OnceCell::new(),
            });
        }
        list
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LoadedObject> {
        self.list.iter()
    }

    pub(crate) fn main(&self) -> &LoadedObject {
        // `read` refuses a list without it.
        self.list
            .iter()
            .find(|object| object.is_main)
            .unwrap_or(&self.list[0])
    }

    /// The object that a module's code must lie near: the one that it was built for, or else the
    /// executable.
    pub(crate) fn home_of(&self, module: &PatchModule) -> &LoadedObject {
        let built_for = module.pre_code.iter().flat_map(|code| &code.objects);
        let mut loaded =
            built_for.filter_map(|object| self.find(object.name.as_deref()).ok().flatten());
        loaded.next().unwrap_or_else(|| self.main())
    }

    /// The object that a patch calls `name` (`None`: the main executable). A library that is
    /// not loaded is no error: it may come yet.
    ///
    /// # Errors
    ///
    /// When several objects go by that name, or it is that of the main executable, which
    /// will never come.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Option<&LoadedObject>, Error> {
        let Some(name) = name else {
            return Ok(Some(self.main()));
        };
        let mut found = self
            .list
            .iter()
            .filter(|object| !object.is_main && object.is_called(name));
        let first = found.next();
        if let (Some(first), Some(second)) = (first, found.next()) {
            let message = format!("both {} and {} go by that name", first.path, second.path);
            return Err(
                Error::other(format!("find object '{name}'"), Errno::EINVAL, message)
                    .with_help("use the file name or soname with its version"),
            );
        }
        if first.is_none() && (name == "vmlinux" || name == self.main().name) {
            let message = "this is the main executable, which is patched under no name";
            return Err(
                Error::other(format!("find object '{name}'"), Errno::EINVAL, message)
                    .with_help("leave klp_object.name NULL"),
            );
        }
        Ok(first)
    }

    pub(crate) fn containing(&self, address: u64) -> Option<&LoadedObject> {
        self.list
            .iter()
            .find(|object| object.image.contains(address))
    }

    /// Name of what lies at an address, for people: `function+0x10 (object)`.
    pub(crate) fn describe(&self, address: u64) -> Option<String> {
        let object = self.containing(address)?;
        Some(match object.symbols().containing(address) {
            Some((symbol, offset)) => format!("{}+{offset:#x} ({})", symbol.name, object.name),
            None => {
                let offset = address.wrapping_sub(object.image.bias);
                format!("{offset:#x} ({})", object.name)
            }
        })
    }
}

fn files(maps: &[Mapping]) -> impl Iterator<Item = (u64, u64)> {
    let starting = maps.iter().filter(|mapping| may_start_object(mapping));
    starting.map(|mapping| (mapping.start, mapping.inode))
}

fn may_start_object(mapping: &Mapping) -> bool {
    (mapping.inode != 0 && mapping.offset == 0 && !mapping.path.starts_with("/memfd:engraft"))
        || mapping.path == "[vdso]"
}

/// /proc/PID/map_files reaches the mapped file even if it was deleted or lies in another
/// mount namespace, but needs privileges; the path does not.
fn locate_file(pid: i32, mapping: &Mapping) -> String {
    let exact = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
    if open_shared(pid, &exact).is_ok() {
        return exact;
    }
    format!("root{}", mapping.path)
}

const AT_PHDR: u64 = 3;

/// How long a process may be without an executable in memory or with some of its libraries only:
/// in execve(2), the new address space is there before anything is mapped into it, and then the
/// dynamic linker maps one library after the other.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// One entry of the auxiliary vector (getauxval(3)).
pub(crate) fn read_auxv(pid: i32, wanted: u64) -> Option<u64> {
    let mut bytes = Vec::new();
    open_shared(pid, "auxv")
        .ok()?
        .read_to_end(&mut bytes)
        .ok()?;
    let (pairs, _) = bytes.as_chunks::<16>();
    pairs.iter().find_map(|pair| {
        let (words, _) = pair.as_chunks::<8>();
        let [key, value] = [words.first()?, words.get(1)?].map(|word| u64::from_le_bytes(*word));
        (key == wanted).then_some(value)
    })
}
