//! The livepatch source of a built module: what is replaced by what.

use std::fmt::Write as _;

use crate::extract::Extracted;

/// Callbacks that a hook may define with the macros of `linux/livepatch.h`.
const CALLBACKS: [&str; 4] = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"];

/// C text that declares the patch and enables it.
pub(super) fn describe_patch(extracted: &Extracted, replace_set: u32) -> String {
    let mut text = String::from("#include <linux/livepatch.h>\n#include <linux/module.h>\n\n");
    for replaced in &extracted.replaced {
        let _ = writeln!(text, "extern char {}[];", replaced.symbol);
    }
    text += "\nstatic struct klp_func funcs[] = {\n";
    for replaced in &extracted.replaced {
        let _ = writeln!(
            text,
            "\t{{ .old_name = \"{}\", .new_func = {}, .old_sympos = {} }},",
            escape(&replaced.name),
            replaced.symbol,
            replaced.sympos
        );
    }
    text += "\t{ }\n};\n\n";
    // Whatever no hook defines stays undefined, which makes it NULL.
    for callback in CALLBACKS {
        let result = if callback == "pre_patch" {
            "int"
        } else {
            "void"
        };
        let _ = writeln!(
            text,
            "__attribute__((weak)) {result} engraft_{callback}(struct klp_object *object);"
        );
    }
    text += "extern __attribute__((weak)) struct klp_state engraft_states[];\n";
    text += "\nstatic struct klp_object objects[] = {\n\t{\n";
    if let Some(name) = &extracted.pre_code.name {
        let _ = writeln!(text, "\t\t.name = \"{}\",", escape(name));
    }
    text += "\t\t.funcs = funcs,\n";
    for callback in CALLBACKS {
        let _ = writeln!(text, "\t\t.callbacks.{callback} = engraft_{callback},");
    }
    let _ = write!(
        text,
        "\t}}, {{ }}\n}};\n\n\
         static struct klp_patch patch = {{\n\
         \t.mod = THIS_MODULE,\n\
         \t.objs = objects,\n\
         \t.states = engraft_states,\n\
         \t.replace = true,\n\
         \t.replace_set = {replace_set},\n\
         }};\n\n\
         static int enable(void)\n{{\n\treturn klp_enable_patch(&patch);\n}}\n\n\
         static void leave(void)\n{{\n}}\n\n\
         module_init(enable);\nmodule_exit(leave);\n\
         MODULE_LICENSE(\"unknown\");\nMODULE_INFO(livepatch, \"Y\");\n"
    );
    text
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
