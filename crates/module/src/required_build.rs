//! Builds that a module was made for: `MODULE_INFO(build_id, "HEX")` for the main executable,
//! `MODULE_INFO(build_id, "NAME=HEX")` for a library.

use std::fmt;
use std::path::Path;

use engraft_elf::{BuildId, FileError, ObjectFile, ObjectKind};
use thiserror::Error;

use crate::ModuleErrorKind;

/// Tag of the module information.
const TAG: &str = "build_id";

/// An object's build that a module was made for; it must not be loaded into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredBuild {
    /// The library's name, `None` for the main executable.
    pub object: Option<String>,
    /// Its build-id.
    pub build_id: BuildId,
}

/// Why a module cannot be made for a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnfitObject {
    /// It is no loadable object.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has no build-id.
    #[error("it has no build-id; link it with -Wl,--build-id")]
    NoBuildId,
}

impl RequiredBuild {
    /// The build of an executable or library in a file of that name.
    ///
    /// # Errors
    ///
    /// [`UnfitObject`]
    pub fn of_file(path: &Path, bytes: &[u8]) -> Result<Self, UnfitObject> {
        let file = ObjectFile::parse(bytes)?;
        let name = || {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        Ok(Self {
            object: match file.kind {
                ObjectKind::Executable => None,
                ObjectKind::Library { soname } => soname.or_else(name),
            },
            build_id: file.build_id.ok_or(UnfitObject::NoBuildId)?,
        })
    }

    /// The entry of section `.modinfo` that says so.
    #[must_use]
    pub fn to_info(&self) -> String {
        match &self.object {
            None => format!("{TAG}={}", self.build_id),
            Some(name) => format!("{TAG}={name}={}", self.build_id),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (object, id) = match text.rsplit_once('=') {
            None => (None, text),
            Some(("", _)) => return None,
            Some((name, id)) => (Some(name.to_owned()), id),
        };
        Some(Self {
            object,
            build_id: id.parse().ok()?,
        })
    }
}

impl fmt::Display for RequiredBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = self.object.as_deref().unwrap_or("main executable");
        write!(f, "{object}, build-id {}", self.build_id)
    }
}

/// Reads the builds out of a module's information. Saying the same twice is no error.
pub(crate) fn read(info: &[(String, String)]) -> Result<Vec<RequiredBuild>, ModuleErrorKind> {
    let mut builds: Vec<RequiredBuild> = Vec::new();
    for (_, text) in info.iter().filter(|(tag, _)| tag == TAG) {
        let build = RequiredBuild::parse(text)
            .ok_or_else(|| ModuleErrorKind::BuildIdFormat(text.clone()))?;
        match builds.iter().find(|known| known.object == build.object) {
            None => builds.push(build),
            Some(known) if known.build_id == build.build_id => {}
            Some(known) => {
                return Err(ModuleErrorKind::TwoBuildIds(
                    known.to_string(),
                    build.build_id.to_string(),
                ));
            }
        }
    }
    Ok(builds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_texts(texts: &[&str]) -> Result<Vec<RequiredBuild>, ModuleErrorKind> {
        let mut info = vec![("license".to_owned(), "GPL".to_owned())];
        info.extend(
            texts
                .iter()
                .map(|text| (TAG.to_owned(), (*text).to_owned())),
        );
        read(&info)
    }

    #[test]
    fn reads_what_it_writes() {
        let builds = read_texts(&["00ff", "libz.so.1=abcd", "a=b=ef", "00FF"]).unwrap();
        let objects: Vec<Option<&str>> = builds.iter().map(|b| b.object.as_deref()).collect();
        assert_eq!(objects, [None, Some("libz.so.1"), Some("a=b")]);
        let infos: Vec<String> = builds.iter().map(RequiredBuild::to_info).collect();
        assert_eq!(
            infos,
            [
                "build_id=00ff",
                "build_id=libz.so.1=abcd",
                "build_id=a=b=ef"
            ]
        );
        assert_eq!(builds[0].to_string(), "main executable, build-id 00ff");
        assert_eq!(builds[1].to_string(), "libz.so.1, build-id abcd");
    }

    #[test]
    fn refuses_what_is_no_build_id_or_contradicts_itself() {
        for bad in ["", "xyz", "abc", "libz.so.1=", "=abcd", "libz.so.1"] {
            assert_eq!(
                read_texts(&[bad]),
                Err(ModuleErrorKind::BuildIdFormat(bad.to_owned()))
            );
        }
        let error = read_texts(&["x=ab", "ab", "x=cd"]).unwrap_err().to_string();
        assert!(
            error.contains("x, build-id ab") && error.contains("cd"),
            "{error}"
        );
    }
}
