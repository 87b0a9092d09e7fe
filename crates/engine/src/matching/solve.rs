//! The worklist: every function that must be known is matched somewhere, and what one match
//! says of others decides where those are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use engraft_arch::matching::begins_with_nop;
use engraft_module::PreSymbolKind;

use super::claim::Claim;
use super::compare::{Comparison, Label, Prepared};
use super::names::find_named;
use super::pre::{PreCodeOf, PreIndex, SymbolId};
use super::program::{Found, Program};
use super::reason::Reason;
use super::refusal::Refusal;

type Outcome = Result<Rc<Comparison>, Reason>;

/// Places whose code matches; or the one that comes nearest, and where it differs.
type Search = Result<Vec<Rc<Comparison>>, (Option<u64>, Reason)>;

/// A place that may be a function's, and how far its callees were compared.
struct View {
    place: Rc<Comparison>,
    frontier: Vec<Rc<Comparison>>,
    visited: HashSet<(SymbolId, u64)>,
}

impl View {
    fn new(id: SymbolId, place: Rc<Comparison>) -> Self {
        Self {
            frontier: vec![Rc::clone(&place)],
            visited: HashSet::from([(id, place.address)]),
            place,
        }
    }
}

/// What is known so far.
pub(super) struct Solver<'a> {
    pre: &'a PreIndex<'a>,
    program: &'a Program<'a>,
    /// Functions that must be matched, then those that may tell where they are.
    functions: Vec<SymbolId>,
    /// How many of them must be matched, and which.
    needed: usize,
    needed_ids: HashSet<SymbolId>,
    /// What the settled functions say.
    claims: BTreeMap<SymbolId, Claim>,
    /// Their references into the inside of functions, by these.
    labels: HashMap<SymbolId, Vec<Label>>,
    /// Functions of which something was said since they were last compared.
    hinted: HashSet<SymbolId>,
    settled: BTreeMap<SymbolId, Rc<Comparison>>,
    compared: HashMap<(SymbolId, u64), Outcome>,
    /// Places whose code matches, whatever it refers to.
    searched: HashMap<SymbolId, Vec<Rc<Comparison>>>,
}

impl<'a> Solver<'a> {
    pub(super) fn new(pre: &'a PreIndex<'a>, program: &'a Program<'a>) -> Self {
        let mut solver = Self {
            pre,
            program,
            functions: Vec::new(),
            needed: 0,
            needed_ids: HashSet::new(),
            claims: BTreeMap::new(),
            labels: HashMap::new(),
            hinted: HashSet::new(),
            settled: BTreeMap::new(),
            compared: HashMap::new(),
            searched: HashMap::new(),
        };
        for function in &pre.object.functions {
            solver.add(function.symbol);
            function.cold.iter().for_each(|part| solver.add(*part));
        }
        for (id, symbol) in (0..).zip(&pre.object.symbols) {
            if symbol.wanted && symbol.kind == PreSymbolKind::Function {
                solver.add(id);
            }
        }
        solver.needed = solver.functions.len();
        solver.needed_ids = solver.functions.iter().copied().collect();
        solver
    }

    fn add(&mut self, id: SymbolId) {
        let id = self.pre.canonical(id);
        if !self.functions.contains(&id) && self.pre.code(id).is_some() {
            self.functions.push(id);
        }
    }

    /// Matches everything that must be matched.
    pub(super) fn solve(&mut self) -> Result<(), Refusal> {
        while self.settle_derived()?
            || self.settle_found()?
            || self.settle_by_callees()?
            || self.add_helpers()
        {}
        let open = self.unsettled().find(|id| self.is_needed(*id));
        if let Some(id) = open {
            let places = self.consistent(id)?.iter().map(|it| it.address).collect();
            return Err(Refusal::Ambiguous(id, places));
        }
        self.check_labels()
    }

    /// Where a function is that is settled, and how it compares.
    pub(super) fn settled(&self, id: SymbolId) -> Option<&Comparison> {
        self.settled.get(&self.pre.canonical(id)).map(|it| &**it)
    }

    /// What the settled functions say of a symbol.
    pub(super) fn claim(&self, id: SymbolId) -> Option<&Claim> {
        self.claims.get(&self.pre.canonical(id))
    }

    fn is_needed(&self, id: SymbolId) -> bool {
        self.needed_ids.contains(&id)
    }

    fn unsettled(&self) -> impl Iterator<Item = SymbolId> + '_ {
        let functions = self.functions.iter().copied();
        functions.filter(|id| !self.settled.contains_key(id))
    }

    /// Functions that settled ones refer to must be where those say.
    fn settle_derived(&mut self) -> Result<bool, Refusal> {
        let mut progress = false;
        let hinted = std::mem::take(&mut self.hinted);
        let open = self.unsettled().filter(|id| hinted.contains(id));
        for id in open.collect::<Vec<_>>() {
            let places = self.derived_places(id);
            let mut failure = None;
            for address in &places {
                let outcome = self.compare(id, *address);
                match outcome.and_then(|it| self.check_consistent(&it).map(|()| it)) {
                    Ok(comparison) => {
                        self.settle(id, comparison)?;
                        progress = true;
                        break;
                    }
                    Err(reason) => failure = Some((*address, reason)),
                }
            }
            if let Some((address, reason)) = failure
                && !self.settled.contains_key(&id)
                && self.is_needed(id)
            {
                return Err(Refusal::Differs(id, address, reason));
            }
        }
        Ok(progress)
    }

    /// Where settled functions say that a function is: the address that they use, or else
    /// those from which the labels that they use are as far away as in the pre-patch code.
    fn derived_places(&self, id: SymbolId) -> Vec<u64> {
        if let Some(claim) = self.claims.get(&id)
            && let Found::Address(address) = claim.binding.found
        {
            // A library's function may be replaced by another object's of its name.
            let own = self.program.code_from(address).is_some();
            if own || !claim.binding.by_name {
                return vec![address];
            }
        }
        let labels = self.labels.get(&id).into_iter().flatten();
        let mut places: Vec<u64> = labels
            .map(|label| label.address.wrapping_sub(label.offset))
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Functions of which only one place agrees with what is known, the longest first: they
    /// are the surest.
    fn settle_found(&mut self) -> Result<bool, Refusal> {
        let mut order: Vec<SymbolId> = self.unsettled().collect();
        order.sort_by_key(|id| {
            let length = self.pre.code(*id).map_or(0, |code| code.bytes.len());
            std::cmp::Reverse((self.is_needed(*id), length))
        });
        for id in order {
            let places = self.consistent(id)?;
            if let [only] = &places[..] {
                let only = Rc::clone(only);
                self.settle(id, only)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Places that agree with what is known. A helper may have none.
    fn consistent(&mut self, id: SymbolId) -> Result<Vec<Rc<Comparison>>, Refusal> {
        let places = self.search(id)?;
        let mut failure = None;
        let mut agreeing = Vec::new();
        for place in places {
            match self.check_consistent(&place) {
                Ok(()) => agreeing.push(place),
                Err(reason) => failure = Some((place.address, reason)),
            }
        }
        match failure {
            Some((address, reason)) if agreeing.is_empty() && self.is_needed(id) => {
                Err(Refusal::Differs(id, address, reason))
            }
            _ => Ok(agreeing),
        }
    }

    /// Of several places, the one whose callees are the right ones, and theirs, as far as
    /// it takes to tell.
    fn settle_by_callees(&mut self) -> Result<bool, Refusal> {
        for id in self.unsettled().collect::<Vec<_>>() {
            let places = self.consistent(id)?;
            let mut views: Vec<View> = places.into_iter().map(|it| View::new(id, it)).collect();
            while views.len() > 1 && views.iter().any(|view| !view.frontier.is_empty()) {
                views.retain_mut(|view| self.look_further(view).is_ok());
            }
            if let [only] = &views[..] {
                let only = Rc::clone(&only.place);
                self.settle(id, only)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compares the functions that those in the frontier call.
    fn look_further(&mut self, view: &mut View) -> Result<(), Reason> {
        let mut next = Vec::new();
        for comparison in std::mem::take(&mut view.frontier) {
            for (id, claim) in &comparison.claims {
                let Found::Address(address) = claim.binding.found else {
                    continue;
                };
                let own = self.pre.code(*id).is_some() && self.program.code_from(address).is_some();
                if own && view.visited.insert((*id, address)) {
                    let callee = self.compare(*id, address)?;
                    self.check_consistent(&callee)?;
                    next.push(callee);
                }
            }
        }
        view.frontier = next;
        Ok(())
    }

    /// When nothing else helps, all functions that are carried along: they may refer to what
    /// is sought.
    fn add_helpers(&mut self) -> bool {
        let ambiguous = self.unsettled().any(|id| self.is_needed(id));
        let before = self.functions.len();
        if (ambiguous || self.lacks_wanted()) && before == self.needed {
            for id in self.pre.functions() {
                self.add(id);
                self.hinted.insert(self.pre.canonical(id));
            }
        }
        self.functions.len() > before
    }

    /// Whether nothing that is settled tells of something that the patch refers to.
    fn lacks_wanted(&self) -> bool {
        (0..).zip(&self.pre.object.symbols).any(|(id, symbol)| {
            symbol.wanted && self.claim(id).is_none() && self.settled(id).is_none()
        })
    }

    fn settle(&mut self, id: SymbolId, comparison: Rc<Comparison>) -> Result<(), Refusal> {
        for (symbol, claim) in &comparison.claims {
            let merged = match self.claims.get(symbol) {
                Some(known) => known
                    .agree(claim, &self.pre.symbol(*symbol).name)
                    .map_err(|reason| Refusal::Differs(id, comparison.address, reason))?,
                None => *claim,
            };
            self.claims.insert(*symbol, merged);
            self.hinted.insert(*symbol);
        }
        for label in &comparison.labels {
            self.labels.entry(label.function).or_default().push(*label);
            self.hinted.insert(label.function);
        }
        self.settled.insert(id, comparison);
        Ok(())
    }

    /// Whether a match agrees with what is settled.
    fn check_consistent(&self, comparison: &Comparison) -> Result<(), Reason> {
        for (id, claim) in &comparison.claims {
            let name = &self.pre.symbol(*id).name;
            if let Some(known) = self.claims.get(id) {
                known.agree(claim, name)?;
            }
            if let (Some(settled), false) = (self.settled.get(id), claim.binding.by_name) {
                Claim::function(settled.address).agree(claim, name)?;
            }
        }
        Ok(())
    }

    /// What leads into the inside of a function leads to the right instruction.
    fn check_labels(&self) -> Result<(), Refusal> {
        for (id, comparison) in &self.settled {
            for label in &comparison.labels {
                let Some(function) = self.settled.get(&label.function) else {
                    continue;
                };
                let offset = u32::try_from(label.offset).unwrap_or(u32::MAX);
                if !function.matched.corresponds(offset, label.address) {
                    let reason = Reason::Label {
                        name: self.pre.symbol(label.function).name.clone(),
                        offset: label.offset,
                        address: label.address,
                        at: label.at,
                    };
                    return Err(Refusal::Differs(*id, comparison.address, reason));
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, id: SymbolId, address: u64) -> Outcome {
        if let Some(outcome) = self.compared.get(&(id, address)) {
            return outcome.clone();
        }
        let outcome = self.prepare(id, |prepared| {
            prepared.compare(self.pre, self.program, id, address)
        });
        let outcome = outcome.and_then(|result| result).map(Rc::new);
        self.compared.insert((id, address), outcome.clone());
        outcome
    }

    fn prepare<R>(&self, id: SymbolId, work: impl FnOnce(&Prepared<'_>) -> R) -> Result<R, Reason> {
        let code: PreCodeOf<'_> = self.pre.code(id).ok_or(Reason::Malformed)?;
        let fields = code.fields().map_err(Reason::UnknownRelocation)?;
        Ok(work(&Prepared::new(&code, &fields)))
    }

    /// The places at which a function's code is: by name, or else of all functions.
    fn search(&mut self, id: SymbolId) -> Result<Vec<Rc<Comparison>>, Refusal> {
        if let Some(found) = self.searched.get(&id) {
            return Ok(found.clone());
        }
        let named = find_named(self.program, self.pre.symbol(id));
        let mut addresses: Vec<u64> = named.iter().map(|symbol| symbol.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let found = if addresses.is_empty() {
            self.scan(id)
        } else {
            self.compare_each(id, &addresses)
        };
        let found = match found {
            Ok(found) => found,
            Err(_) if !self.is_needed(id) => Vec::new(),
            Err((Some(address), reason)) if addresses.contains(&address) => {
                return Err(Refusal::Differs(id, address, reason));
            }
            Err((nearest, reason)) => return Err(Refusal::Missing(id, nearest, reason)),
        };
        self.searched.insert(id, found.clone());
        Ok(found)
    }

    fn compare_each(&mut self, id: SymbolId, addresses: &[u64]) -> Search {
        let compared = self.prepare(id, |prepared| {
            let mut found = Vec::new();
            let mut best = None;
            for address in addresses {
                match prepared.compare(self.pre, self.program, id, *address) {
                    Ok(comparison) => found.push(Rc::new(comparison)),
                    Err(reason) => keep_nearest(&mut best, *address, reason),
                }
            }
            (found, best)
        });
        let (found, best) = compared.map_err(|reason| (None, reason))?;
        for comparison in &found {
            let outcome = Ok(Rc::clone(comparison));
            self.compared.insert((id, comparison.address), outcome);
        }
        match best {
            Some((address, reason)) if found.is_empty() => Err((Some(address), reason)),
            None if found.is_empty() => Err((None, Reason::NoFunctions)),
            _ => Ok(found),
        }
    }

    /// Compares the function with every function of the program, and with whatever nothing
    /// says the beginning of.
    fn scan(&mut self, id: SymbolId) -> Search {
        let all = self.places();
        let may_match = |prepared: &Prepared<'_>, address: u64| {
            let code = self.program.code_from(address);
            code.is_some_and(|code| prepared.may_match(code))
        };
        let likely = self.prepare(id, |prepared| {
            let unknown = self.program.gaps().iter().cloned().flatten();
            // Padding before a function is not its beginning.
            let unknown = unknown.filter(|address| {
                let code = self.program.code_from(*address);
                code.is_some_and(|code| !begins_with_nop(code))
            });
            let places = all.iter().copied().chain(unknown);
            places
                .filter(|address| may_match(prepared, *address))
                .collect::<Vec<_>>()
        });
        let likely = likely.map_err(|reason| (None, reason))?;
        // Where nothing is it, say what comes nearest.
        self.compare_each(id, &likely)
            .or_else(|_| self.compare_each(id, &all))
    }

    /// Where functions start, each once.
    fn places(&self) -> Vec<u64> {
        let functions = self.program.functions().iter();
        let mut places: Vec<u64> = functions.map(|function| function.start).collect();
        places.dedup();
        places
    }
}

/// Of all differences, the one that is found last in the function.
fn keep_nearest(best: &mut Option<(u64, Reason)>, address: u64, reason: Reason) {
    if best
        .as_ref()
        .is_none_or(|(_, known)| known.progress() < reason.progress())
    {
        *best = Some((address, reason));
    }
}
