//! What a kernel module changes and needs, as far as its file tells.

use engraft_kernel::{Contents, KernelModule};
use serde::Serialize;

use crate::failure::{Failure, Verdict};
use crate::module_file::ModuleFile;
use crate::output::Output;
use crate::render::printable;

pub(crate) fn inspect(
    module: &KernelModule,
    file: &ModuleFile,
    output: &Output,
) -> Result<Verdict, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        name: &'a str,
        livepatch: bool,
        release: &'a str,
        #[serde(flatten)]
        contents: &'a Contents,
    }
    let contents = KernelModule::read_contents(&file.bytes, &file.file_name)?;
    if output.json {
        output.object(&Report {
            name: &module.name,
            livepatch: module.livepatch,
            release: module.release(),
            contents: &contents,
        });
    } else {
        let release = printable(module.release());
        let name = printable(&module.name);
        output.heading(&format!("module '{name}' for Linux {release}"));
        output.line(&describe(module, &contents));
    }
    Ok(Verdict::Done)
}

fn describe(module: &KernelModule, contents: &Contents) -> String {
    let mut lines = Vec::new();
    for (tag, text) in contents.info.iter().filter(|(_, text)| !text.is_empty()) {
        let text = printable(text).replace('\n', " ");
        lines.push(format!("{}: {}", printable(tag), text.trim_end()));
    }
    if module.livepatch {
        lines.push("functions, which of them are replacements is decided at run time:".to_owned());
        let functions = contents.functions.iter();
        lines.extend(functions.map(|name| format!("  {}", printable(name))));
    }
    lines.push("needs:".to_owned());
    let needs = contents.needs.iter();
    lines.extend(needs.map(|need| format!("  {}", printable(&need.to_string()))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use engraft_kernel::Need;

    use super::*;

    #[test]
    fn a_module_is_shown_with_what_it_has_and_needs() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let module = KernelModule {
            name: "fix".to_owned(),
            livepatch: true,
            vermagic: "6.1.0 SMP ".to_owned(),
            build_id: None,
        };
        let contents = Contents {
            info: vec![pair("livepatch", "Y"), pair("vermagic", "6.1.0 SMP ")],
            functions: vec!["do_thing".to_owned()],
            needs: vec![Need {
                object: Some("ext4".to_owned()),
                name: "inner".to_owned(),
                sympos: 2,
            }],
        };
        assert_eq!(
            describe(&module, &contents),
            "livepatch: Y\nvermagic: 6.1.0 SMP\n\
             functions, which of them are replacements is decided at run time:\n  do_thing\n\
             needs:\n  'inner',2 of 'ext4'"
        );
    }
}
