//! The operations on one live process.

use std::rc::Rc;
use std::time::{Duration, Instant};

use engraft_core::{Driver, Level, Order, Progress, State};
use engraft_module::PatchModule;
use engraft_process::RuntimePlaces;
use nix::errno::Errno;

use crate::attached::Attached;
use crate::control;
use crate::database::{self, Records};
use crate::error::Error;
use crate::live::Live;
use crate::loading::{LoadRequest, kernel_line};
use crate::matching::Matches;
use crate::migrate::Visited;
use crate::objects::Objects;
use crate::preview::{View, preview};
use crate::status::{TransitionStatus, transition_status};
use crate::timeline::Timeline;

/// How often a module is looked at anew when something cannot be read.
const LOOKS: u32 = 20;

/// How soon a thread that has stopped late is let go.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Exclusive hold on one live process.
///
/// Use it from one operating system thread only: ptrace knows the thread, not the process.
pub struct Engine {
    process: Attached,
    objects: Rc<Objects>,
    /// Loads and unloads of libraries that `objects` knows of.
    sighted: u64,
    prepared: Option<Prepared>,
    visited: Visited,
    timeline: Option<Timeline>,
}

struct Prepared {
    state: State,
    records: Records,
    places: RuntimePlaces,
}

impl Engine {
    /// Takes hold of a process, picks up whatever state it is in, and finishes or takes back
    /// what an earlier, interrupted invocation has left half done.
    ///
    /// # Errors
    ///
    /// ESRCH, EPERM, EBUSY (a debugger, or another engraft), ENOEXEC (not 64 bits).
    pub fn open(pid: i32) -> Result<Self, Error> {
        let process = Attached::hold(pid)?;
        let (objects, prepared) = look(&process).map_err(|error| process.explain(error))?;
        let mut engine = Self {
            process,
            objects: Rc::new(objects),
            sighted: u64::MAX,
            prepared,
            visited: Visited::default(),
            timeline: None,
        };
        if engine.prepared.is_some() {
            engine.operate(|live, state| {
                // Its writer may have been killed between a commit and the table that follows.
                live.write_patch_table(state)?;
                live.republish_plan()?;
                live.skip_used_commands()?;
                live.recover_modules(state)?;
                Driver::new(state, live).recover()?;
                Ok(())
            })?;
        }
        Ok(engine)
    }

    /// Loads a patch module: places it, runs its init function, and enables the patch unless
    /// the request says otherwise. Returns after one pass over the threads, like insmod;
    /// [`Engine::retry`] goes on.
    ///
    /// # Errors
    ///
    /// Those of the kernel's livepatch (EEXIST, EINVAL, EBUSY, the errno of pre_patch), and
    /// whatever keeps the module from being linked. Nothing is left behind then.
    pub fn load(&mut self, request: &LoadRequest<'_>) -> Result<(), Error> {
        self.process.memory.check_alive()?;
        let module = PatchModule::parse(request.module, request.file_name)
            .map_err(|error| Error::new("load", error))?;
        self.look_again()?;
        let matches = self.refuse_beforehand(&module, request, LOOKS)?;
        self.prepare()
            .map_err(|error| self.process.explain(error))?;
        self.operate(|live, state| {
            live.matches = matches;
            live.load_module(state, &module, request)
        })
    }

    /// Libraries may have come or gone since the target was opened.
    fn look_again(&mut self) -> Result<(), Error> {
        self.renew_objects()?;
        if self.prepared.is_none() {
            return Ok(());
        }
        self.operate(|live, state| {
            Driver::new(state, live).recover()?;
            Ok(())
        })
    }

    /// Nothing tells of libraries that no patch names.
    fn renew_objects(&mut self) -> Result<(), Error> {
        if !self.objects.are_current(&self.process)? {
            self.objects = Rc::new(Objects::read(&self.process)?.0);
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Error> {
        if self.prepared.is_none() {
            let (state, mut records) = control::prepare(&self.process, &self.objects)?;
            database::save(&self.process.memory, &state, &mut records)?;
            self.prepared = Some(Prepared::new(state, records));
        }
        Ok(())
    }

    /// Refuses what can be known to fail before anything is touched. Returns where the
    /// module's pre-patch code is.
    fn refuse_beforehand(
        &mut self,
        module: &PatchModule,
        request: &LoadRequest<'_>,
        attempts: u32,
    ) -> Result<Matches, Error> {
        let database = self.prepared.as_ref();
        let view = View {
            process: &self.process,
            objects: &self.objects,
            database: database.map(|prepared| (&prepared.state, &prepared.records)),
        };
        let preview = match preview(view, module, request) {
            Err(error) if error.is_gone() || attempts == 0 => {
                return Err(self.process.explain(error));
            }
            preview => preview,
        };
        let problem = match preview {
            Ok(preview) => match preview.problems.into_iter().next() {
                Some(problem) => problem,
                None => return Ok(preview.matches),
            },
            Err(error) => error,
        };
        // A library may have gone while it was looked at.
        let unreadable = matches!(problem.errno(), Errno::EIO | Errno::EFAULT);
        if attempts > 0 && (unreadable || !self.objects.are_current(&self.process)?) {
            self.look_again()?;
            return self.refuse_beforehand(module, request, attempts - 1);
        }
        if let Some(line) = kernel_line(&problem).filter(|_| self.prepared.is_some()) {
            self.operate(|live, state| Ok(Driver::new(state, live).log(Level::Err, line)?))?;
        }
        Err(self.process.explain(problem))
    }

    /// Enables a loaded patch, or reverses its own running disable.
    ///
    /// # Errors
    ///
    /// ENOENT, EINVAL, EBUSY, the errno of pre_patch.
    pub fn enable(&mut self, name: &str, any_order: bool) -> Result<(), Error> {
        self.operate(|live, state| {
            Driver::new(state, live).enable(name, order(any_order))?;
            Ok(())
        })
    }

    /// Disables a patch, or reverses its own running enable.
    ///
    /// # Errors
    ///
    /// ENOENT, EINVAL, EBUSY.
    pub fn disable(&mut self, name: &str, any_order: bool) -> Result<(), Error> {
        self.operate(|live, state| {
            Driver::new(state, live).disable(name, order(any_order))?;
            Ok(())
        })
    }

    /// Unloads a patch module that is neither enabled nor in transition nor forced.
    ///
    /// # Errors
    ///
    /// ENOENT, EWOULDBLOCK.
    pub fn unload(&mut self, name: &str) -> Result<(), Error> {
        self.operate(|live, state| live.unload_module(state, name))
    }

    /// Switches all remaining threads of the running transition regardless of their stacks.
    /// The next [`Engine::retry`] completes it.
    ///
    /// # Errors
    ///
    /// EINVAL when no transition runs.
    pub fn force(&mut self) -> Result<(), Error> {
        self.operate(|live, state| {
            Driver::new(state, live).force()?;
            Ok(())
        })
    }

    /// One more pass over the threads; `None` when no transition runs any more.
    ///
    /// # Errors
    ///
    /// EBUSY when every thread is switched but an entry cannot be brought to its final form.
    pub fn retry(&mut self) -> Result<Option<TransitionStatus>, Error> {
        if self.prepared.is_none() {
            return Ok(None);
        }
        self.operate(|live, state| {
            let progress = Driver::new(state, live).retry()?;
            if let Progress::Stuck(failure) = progress {
                return Err(Error::new("complete the transition", failure));
            }
            live.recover_modules(state)?;
            Ok(transition_status(state, live.records))
        })
    }

    /// From now on what is done to threads is kept.
    pub fn keep_timeline(&mut self) {
        self.timeline = Some(Timeline::new());
    }

    /// What was kept.
    #[must_use]
    pub fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// Threads that there were at the last pass, 0 before the first one.
    #[must_use]
    pub fn threads(&self) -> u32 {
        let prepared = self.prepared.as_ref();
        prepared.map_or(0, |prepared| prepared.records.threads_seen)
    }

    /// Sleeps. A thread that could not be stopped because it slept uninterruptibly stops when
    /// it wakes up, and goes on only when this or another operation lets it: use this between
    /// operations, not a sleep of your own.
    ///
    /// # Errors
    ///
    /// Those of detaching from a thread.
    pub fn pause(&mut self, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        while self.process.tracer.reap()? > 0 && Instant::now() < end {
            std::thread::sleep(LOOK_AGAIN.min(end.saturating_duration_since(Instant::now())));
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(())
    }

    fn operate<R>(
        &mut self,
        operation: impl FnOnce(&mut Live<'_>, &mut State) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.process.memory.check_alive()?;
        self.renew_objects()?;
        let Some(Prepared {
            state,
            records,
            places,
        }) = &mut self.prepared
        else {
            let pid = self.process.pid;
            return Err(Error::other(
                format!("process {pid}"),
                Errno::ENOENT,
                "nothing is loaded into it",
            ));
        };
        let mut live = Live {
            process: &self.process,
            objects: Rc::clone(&self.objects),
            sighted: self.sighted,
            guard: None,
            places,
            records,
            visited: &mut self.visited,
            timeline: self.timeline.as_mut(),
            session: None,
            in_init: None,
            matches: Matches::default(),
        };
        let result = operation(&mut live, state);
        let released = live.release_hook(state);
        let result = result.and_then(|value| released.map(|()| value));
        let ended = live.end_session();
        (self.objects, self.sighted) = (live.objects, live.sighted);
        let reaped = self.process.tracer.reap();
        ended
            .and(reaped.map_err(Error::from))
            .and(result)
            .map_err(|error| self.process.explain(error))
    }
}

/// The objects of a process, and what is recorded in it.
fn look(process: &Attached) -> Result<(Objects, Option<Prepared>), Error> {
    let (objects, maps) = Objects::read(process)?;
    control::remove_leftover(process, &objects)?;
    let recorded = match control::find(&maps) {
        Some(control) => database::load(&process.memory, control)?,
        None => None,
    };
    let prepared = recorded.map(|(state, records)| Prepared::new(state, records));
    Ok((objects, prepared))
}

impl Prepared {
    fn new(state: State, records: Records) -> Self {
        let places = records.runtime.places();
        Self {
            state,
            records,
            places,
        }
    }
}

fn order(any: bool) -> Order {
    if any { Order::Any } else { Order::Reverse }
}
