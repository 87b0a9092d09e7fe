//! A module linked to where it would go, outside the target.

use std::collections::BTreeMap;

use engraft_module::{DeclaredFunction, Layout, Linked, PatchModule, Placement};
use engraft_process::Mapping;
use nix::errno::Errno;

use crate::arena::{ARENA_NAME, Arena, find_room, roomy};
use crate::bind::Binder;
use crate::control;
use crate::database::Module;
use crate::error::{Error, Kind};
use crate::loading::{REDIRECT_ROOM, module_room, record_of, take_module};
use crate::matching::Matches;
use crate::preview::View;
use crate::redirect::Text;
use crate::space::Span;

/// The linked module, and the record that it would have.
pub(crate) struct Trial {
    pub(crate) record: Module,
    pub(crate) linked: Linked,
}

/// Links a module to memory that is free in the target or could be mapped there.
pub(crate) fn link_on_trial(
    view: View<'_>,
    matches: &Matches,
    module: &PatchModule,
) -> Result<Trial, Error> {
    let layout = Layout::of(module);
    let mut room = Room::of(view)?;
    let arena = room.near(view.objects.home_of(module).span(), module_room(&layout))?;
    let spans = take_module(&mut room.arenas[arena], &layout).ok_or_else(|| {
        let message = "no room for the module in the memory mapped for patches";
        Error::other(format!("load '{}'", module.name), Errno::ENOMEM, message)
    })?;
    for object in module.patched_objects() {
        if let Some(loaded) = view.objects.find(object.as_deref())? {
            room.near(loaded.span(), REDIRECT_ROOM)?;
        }
    }
    let [text, read_only, data] = spans.map(|span| span.start);
    let placement = Placement {
        text,
        read_only,
        data,
    };
    // Until there is a runtime, any address does for what it exports.
    let exports: BTreeMap<String, u64> = engraft_runtime::EXPORTS
        .iter()
        .map(|name| ((*name).to_owned(), text))
        .collect();
    let binder = Binder {
        process: view.process,
        objects: view.objects,
        exports: view
            .records()
            .map_or(&exports, |records| &records.runtime.exports),
        matches,
    };
    let linked = engraft_module::link(module, &placement, &binder)
        .map_err(|error| Error::new(format!("load '{}'", module.name), Kind::Link(error)))?;
    Ok(Trial {
        record: record_of(module, &linked, spans),
        linked,
    })
}

impl Trial {
    /// The module's own code.
    pub(crate) fn text(&self) -> Text {
        let functions = self.record.functions.iter().map(|f| f.span).collect();
        Text::in_one_piece(
            self.linked.placement.text,
            self.linked.text.clone(),
            functions,
        )
    }

    /// Where a replacement lies, 0 if none is named.
    pub(crate) fn address_of(&self, function: &DeclaredFunction) -> u64 {
        let mut functions = self.linked.functions.iter();
        functions
            .find(|linked| Some(linked.symbol) == function.new_symbol)
            .map_or(0, |linked| linked.address)
    }

    /// There is an init function, and the module is marked if it enables a patch in it.
    pub(crate) fn check_init(&self, module: &PatchModule) -> Result<(), Error> {
        let context = || format!("load '{}'", module.name);
        if self.linked.init.is_none() {
            let message = "it has no init function";
            return Err(Error::other(context(), Errno::ENOEXEC, message)
                .with_help("declare one with module_init()"));
        }
        let enables = module
            .references()
            .iter()
            .any(|reference| reference.name == "klp_enable_patch");
        if enables && !module.is_livepatch() {
            return Err(Error::new(context(), Kind::Unmarked(module.name.clone())));
        }
        Ok(())
    }
}

/// Memory for patches: what there is, and what would have to be mapped.
struct Room<'a> {
    view: View<'a>,
    maps: Vec<Mapping>,
    arenas: Vec<Arena>,
    /// Bytes of the arenas that do not exist yet.
    planned: u64,
}

impl<'a> Room<'a> {
    fn of(view: View<'a>) -> Result<Self, Error> {
        let mut room = Self {
            view,
            maps: view.process.maps()?,
            arenas: Vec::new(),
            planned: 0,
        };
        match view.records() {
            Some(records) => room.arenas.clone_from(&records.arenas),
            None => {
                control::find_slack(view.objects)?;
                let near = view.objects.main().span();
                let arena = control::plan_control(view.process, &room.maps, near)?;
                room.add(arena);
            }
        }
        Ok(room)
    }

    /// Index of an arena with room near `object`, as [`crate::live::Live::arena_near`] would
    /// find or map it.
    fn near(&mut self, object: Span, room: [u64; 3]) -> Result<usize, Error> {
        if let Some(index) = find_room(&self.arenas, object, room) {
            return Ok(index);
        }
        let (process, planned) = (self.view.process, self.planned);
        control::find_slack(self.view.objects)?;
        let size = roomy(room);
        let plan = control::plan_mapping(process, &self.maps, object, ARENA_NAME, size, planned)?;
        self.add(Arena::new(&plan));
        Ok(self.arenas.len() - 1)
    }

    fn add(&mut self, arena: Arena) {
        let span = arena.span();
        self.planned += span.size;
        let place = self
            .maps
            .partition_point(|mapping| mapping.start < span.start);
        self.maps
            .insert(place, Mapping::reserved(span.start..span.end()));
        self.arenas.push(arena);
    }
}
