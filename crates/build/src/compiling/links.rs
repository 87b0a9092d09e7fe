//! A close look at one link: what is linked, in which order.
//!
//! The link is done twice. The first time its output goes elsewhere, the linker names the files
//! that it takes, and their contents are kept, since later steps of the build overwrite or delete
//! them. The second time is the real one, untouched.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::arguments::{Input, Invocation, Kind, expand_responses};
use super::objects::{FileKind, has_link_time_code, kind_of, read_members};
use super::rustc::is_symbol_list;
use super::session::{Link, Part, Parts, Record, Session};
use super::store;
use super::wrapper::{Wrapped, add_flags};

/// Records a link that a compiler is asked for.
pub(super) fn inspect_compiler_link(
    wrapped: &Wrapped,
    invocation: &Invocation,
    session: &Session,
) -> io::Result<()> {
    let output = wrapped.absolute(&invocation.linked_output());
    let link = |parts| Link {
        output: output.clone(),
        is_relocatable: invocation.is_relocatable,
        parts,
    };
    // What comes through a pipe can be read only once.
    let reads_pipe = invocation
        .inputs
        .iter()
        .any(|input| input.path == Path::new("-") || input.path.starts_with("/dev"));
    if reads_pipe || !session.may_matter(&link(None)) {
        return session.record(&Record::Link(link(None)));
    }
    let scratch = tempfile::tempdir_in(&session.scratch)?;
    let Some(temporary) = compile_sources(wrapped, invocation, session, scratch.path())? else {
        return session.record(&Record::Link(link(None)));
    };
    let mut arguments = Vec::new();
    for (position, argument) in invocation.arguments.iter().enumerate() {
        match temporary.iter().find(|made| made.position == position) {
            Some(made) => arguments.extend(made.arguments()),
            None => arguments.push(argument.clone()),
        }
    }
    arguments.push("-Wl,--trace,--trace".into());
    let parts = repeat(wrapped, arguments, &temporary, session)?;
    session.record(&Record::Link(link(parts)))
}

/// Records a link that the linker itself is asked for.
pub(super) fn inspect_linker(wrapped: &Wrapped, session: &Session) -> io::Result<()> {
    let mut arguments = expand_responses(&wrapped.arguments, &wrapped.directory);
    let Some(mut link) = understand_linker(wrapped, &arguments) else {
        return Ok(());
    };
    if session.may_matter(&link) {
        arguments.extend(["--trace", "--trace"].map(OsString::from));
        link.parts = repeat(wrapped, arguments, &[], session)?;
    }
    session.record(&Record::Link(link))
}

fn understand_linker(wrapped: &Wrapped, arguments: &[OsString]) -> Option<Link> {
    let mut output = None;
    let mut is_relocatable = false;
    let mut has_input = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_bytes() {
            b"-o" | b"--output" => output = rest.next().map(PathBuf::from),
            b"-r" | b"-i" | b"-Ur" | b"--relocatable" => is_relocatable = true,
            text => {
                if let Some(name) = text.strip_prefix(b"--output=") {
                    output = Some(PathBuf::from(OsStr::from_bytes(name)));
                } else if !text.starts_with(b"-") {
                    has_input = true;
                }
            }
        }
    }
    has_input.then(|| Link {
        output: wrapped.absolute(&output.unwrap_or_else(|| "a.out".into())),
        is_relocatable,
        parts: None,
    })
}

impl Session {
    /// Whether the output may be the target, go into it, or become it by being renamed, stripped
    /// or linked to. cargo writes `-` in a name as `_` and appends a hash.
    fn may_matter(&self, link: &Link) -> bool {
        let name = link.output.file_name().unwrap_or_default();
        let same_form = |text: &str| text.replace('-', "_");
        link.is_relocatable
            || same_form(&name.to_string_lossy()).contains(&same_form(&self.target_stem))
    }
}

/// An object made from a source that a linking command names.
struct Temporary {
    position: usize,
    object: PathBuf,
    source: PathBuf,
    language: Option<String>,
}

impl Temporary {
    /// What stands for the source among the arguments.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["-x".into(), "none".into()];
        arguments.push(self.object.clone().into());
        if let Some(language) = &self.language {
            arguments.extend(["-x".into(), language.into()]);
        }
        arguments
    }
}

/// Compiles the sources that a linking command names, one by one; nothing if one fails.
fn compile_sources(
    wrapped: &Wrapped,
    invocation: &Invocation,
    session: &Session,
    directory: &Path,
) -> io::Result<Option<Vec<Temporary>>> {
    let mut made = Vec::new();
    let sources = invocation.inputs.iter();
    for input in sources.filter(|input| input.kind != Kind::Linked) {
        let object = directory.join(format!("{}.o", made.len()));
        let arguments = arguments_for_one(invocation, input, session, &object);
        if !wrapped.command(&arguments).output()?.status.success() {
            return Ok(None);
        }
        made.push(Temporary {
            position: input.position,
            object,
            source: wrapped.absolute(&input.path),
            language: input.language.clone(),
        });
    }
    Ok(Some(made))
}

fn arguments_for_one(
    invocation: &Invocation,
    input: &Input,
    session: &Session,
    object: &Path,
) -> Vec<OsString> {
    let is_left_out = |position: usize| {
        invocation.output_positions.contains(&position)
            || invocation
                .inputs
                .iter()
                .any(|other| other.position == position && position != input.position)
    };
    let arguments: Vec<OsString> = invocation
        .arguments
        .iter()
        .enumerate()
        .filter(|&(position, _)| !is_left_out(position))
        .map(|(_, argument)| argument.clone())
        .collect();
    let mut arguments = match input.kind {
        Kind::Source => add_flags(&arguments, invocation, session),
        Kind::Assembly | Kind::Linked => arguments,
    };
    arguments.extend(["-Wno-unused-command-line-argument", "-c", "-o"].map(OsString::from));
    arguments.push(object.into());
    arguments
}

/// Links to another output, with a linker that names what it takes; nothing if that fails.
fn repeat(
    wrapped: &Wrapped,
    mut arguments: Vec<OsString>,
    temporary: &[Temporary],
    session: &Session,
) -> io::Result<Option<Parts>> {
    let directory = tempfile::tempdir_in(&session.scratch)?;
    let copy = directory.path().join("output");
    arguments.extend(["-o".into(), copy.clone().into()]);
    let output = wrapped.command(&arguments).env("LC_ALL", "C").output()?;
    if !output.status.success() {
        return Ok(None);
    }
    let mut reading = Reading {
        wrapped,
        session,
        temporary,
        archives: HashMap::new(),
        parts: Parts {
            copy: store::keep(&session.store, &fs::read(&copy)?)?,
            objects: Vec::new(),
            outside: Vec::new(),
            link_time: None,
        },
    };
    for line in output.stdout.split(|&byte| byte == b'\n') {
        reading.take_line(line)?;
    }
    Ok(Some(reading.parts))
}

/// The linker's list of files, being read.
struct Reading<'a> {
    wrapped: &'a Wrapped,
    session: &'a Session,
    temporary: &'a [Temporary],
    /// Members of archives that have not been taken yet: name and content.
    archives: HashMap<PathBuf, Vec<(String, Vec<u8>)>>,
    parts: Parts,
}

impl Reading<'_> {
    fn take_line(&mut self, line: &[u8]) -> io::Result<()> {
        let line = line.strip_prefix(b"trace: ").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(());
        }
        let path = self.wrapped.absolute(Path::new(OsStr::from_bytes(line)));
        if path.is_file() {
            return self.take_file(path);
        }
        match split_member(line) {
            Some((archive, member)) => {
                let archive = self.wrapped.absolute(Path::new(OsStr::from_bytes(archive)));
                self.take_member(archive, &String::from_utf8_lossy(member))
            }
            None => Ok(()),
        }
    }

    fn take_file(&mut self, path: PathBuf) -> io::Result<()> {
        if let Some(made) = self.temporary.iter().find(|made| made.object == path) {
            let content = fs::read(&path)?;
            let (file, source) = (made.source.with_extension("o"), Some(made.source.clone()));
            return self.keep(file, None, source, &content);
        }
        if !path.starts_with(&self.session.root) {
            self.parts.outside.push(path);
            return Ok(());
        }
        if is_symbol_list(&path) {
            return Ok(());
        }
        let content = fs::read(&path)?;
        match kind_of(&content) {
            FileKind::Object | FileKind::Bitcode => self.keep(path, None, None, &content),
            FileKind::Archive | FileKind::Other => Ok(()),
        }
    }

    fn take_member(&mut self, archive: PathBuf, name: &str) -> io::Result<()> {
        if !archive.is_file() {
            return Ok(());
        }
        if !archive.starts_with(&self.session.root) {
            self.parts.outside.push(archive);
            return Ok(());
        }
        if !self.archives.contains_key(&archive) {
            let members = read_members(&archive)?;
            self.archives.insert(archive.clone(), members);
        }
        // Members of one name cannot be told apart in the list: all of them count.
        let members = self.archives.entry(archive.clone()).or_default();
        let (taken, rest): (Vec<_>, Vec<_>) = std::mem::take(members)
            .into_iter()
            .partition(|(member, _)| member == name);
        *members = rest;
        for (member, content) in taken {
            self.keep(archive.clone(), Some(member), None, &content)?;
        }
        // A member of a thin archive is a file.
        let file = archive.parent().unwrap_or(Path::new("/")).join(name);
        if !self.was_taken(&archive, name) && file.is_file() {
            return self.take_file(file);
        }
        Ok(())
    }

    fn was_taken(&self, archive: &Path, name: &str) -> bool {
        self.parts
            .objects
            .iter()
            .any(|part| part.file == archive && part.member.as_deref() == Some(name))
    }

    fn keep(
        &mut self,
        file: PathBuf,
        member: Option<String>,
        source: Option<PathBuf>,
        content: &[u8],
    ) -> io::Result<()> {
        if self.parts.link_time.is_none() && has_link_time_code(content) {
            self.parts.link_time = Some(file.clone());
        }
        self.parts.objects.push(Part {
            file,
            member,
            source,
            content: store::keep(&self.session.store, content)?,
        });
        Ok(())
    }
}

/// `(archive)member` and `archive(member)`, as different linkers write it.
fn split_member(line: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(rest) = line.strip_prefix(b"(") {
        let at = rest.iter().rposition(|&byte| byte == b')')?;
        return Some((&rest[..at], &rest[at + 1..]));
    }
    let rest = line.strip_suffix(b")")?;
    let at = rest.iter().rposition(|&byte| byte == b'(')?;
    Some((&rest[..at], &rest[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::split_member;

    #[test]
    fn linkers_write_members_in_two_ways() {
        let expected = Some((&b"d/lib (1).a"[..], &b"x.o"[..]));
        assert_eq!(split_member(b"(d/lib (1).a)x.o"), expected);
        assert_eq!(split_member(b"d/lib (1).a(x.o)"), expected);
        assert_eq!(split_member(b"d/x.o"), None);
    }
}
