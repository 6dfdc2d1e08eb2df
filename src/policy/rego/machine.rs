//! What evaluates: regorus' virtual machine where it is as good as its interpreter, else that.
//!
//! The machine is several times faster, and where a policy contradicts itself (two values for one
//! rule) it answers *undefined* or either value, while the interpreter, like OPA, fails. `not` makes
//! a yes of an undefined, so that would be an allow by mistake. The machine therefore gets only
//! programs in which nothing can contradict itself and none of our own builtins is called; which
//! one it is, is decided once at load.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::instructions::ComprehensionMode;
use regorus::rvm::program::{Program, RuleType};
use regorus::rvm::{Instruction, RegoVM};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{CompiledPolicy, Engine, Value};

use super::builtins;
use crate::clock::Timestamp;

/// The rule that stands for the query.
pub(super) const ENTRY: &str = "data.placet_entry.decision";

/// How long one evaluation may take. The work is on a thread that other requests need.
const TIME_LIMIT: Duration = Duration::from_millis(100);

/// How many steps the virtual machine may take; the time comes first, save on a very fast machine.
const STEP_LIMIT: usize = 20_000_000;

/// How many steps between two looks at the clock.
const STEPS_A_LOOK: NonZeroU32 = match NonZeroU32::new(64) {
    Some(steps) => steps,
    None => NonZeroU32::MIN,
};

/// How many machines wait for the next request at most.
const IDLE_LIMIT: usize = 64;

/// What evaluates a scope's policies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Evaluator {
    /// Regorus' virtual machine.
    Machine,
    /// Regorus' interpreter.
    Interpreter,
}

impl fmt::Display for Evaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "virtual machine",
            Self::Interpreter => "interpreter",
        })
    }
}

/// The compiled policies and what evaluates them; each evaluation has a machine of its own.
pub(super) struct Machine {
    /// Prepared, without the builtins that need the time.
    engine: Engine,
    compiled: Option<Compiled>,
    idle_engines: Mutex<Vec<Interpreter>>,
}

struct Compiled {
    policy: CompiledPolicy,
    program: Arc<Program>,
    data: Value,
    idle: Mutex<Vec<RegoVM>>,
}

struct Interpreter {
    engine: Engine,
    /// Milliseconds since the epoch, which its builtins take for now.
    now: Arc<AtomicU64>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("evaluator", &self.evaluator()).finish_non_exhaustive()
    }
}

impl Machine {
    /// `called` are the builtins that the policies call, `only_true` the rules with no other value.
    pub(super) fn new(
        engine: Engine,
        policy: CompiledPolicy,
        called: &BTreeSet<String>,
        only_true: &BTreeSet<String>,
    ) -> Self {
        let is_ours = called.iter().any(|name| builtins::arity(name).is_some());
        let program = Compiler::compile_from_policy(&policy, &[ENTRY]).ok();
        let program = program.filter(|program| !is_ours && is_consistent(program, only_true));
        let data = engine.get_data();
        let fits = |program: &Arc<Program>| program.check_rule_data_conflicts(&data).is_ok();
        let compiled = program.filter(fits).map(|program| Compiled {
            policy,
            program,
            data: data.clone(),
            idle: Mutex::default(),
        });
        Self { engine, compiled, idle_engines: Mutex::default() }
    }

    pub(super) fn interpreted(self) -> Self {
        Self { compiled: None, ..self }
    }

    pub(super) fn evaluator(&self) -> Evaluator {
        if self.compiled.is_some() { Evaluator::Machine } else { Evaluator::Interpreter }
    }

    /// The value of the query; an `Err` says why there is none, for the log.
    pub(super) fn evaluate(&self, input: Value, now: Timestamp) -> Result<Value, String> {
        match &self.compiled {
            Some(compiled) => compiled.evaluate(input),
            None => self.interpret(input, now),
        }
    }

    fn interpret(&self, input: Value, now: Timestamp) -> Result<Value, String> {
        let idle = held(&self.idle_engines).pop();
        let mut interpreter = match idle {
            Some(interpreter) => interpreter,
            None => Interpreter::new(&self.engine)?,
        };
        interpreter.now.store(now.millis(), Ordering::Relaxed);
        interpreter.engine.set_input(input);
        let value = interpreter.engine.eval_rule(ENTRY.to_owned()).map_err(|e| brief(&e))?;
        // One that failed is not used again, and none keeps what a request brought.
        interpreter.engine.set_input(Value::Undefined);
        keep(&self.idle_engines, interpreter);
        Ok(value)
    }
}

impl Interpreter {
    fn new(engine: &Engine) -> Result<Self, String> {
        let mut engine = engine.clone();
        let now = Arc::new(AtomicU64::new(0));
        builtins::provide(&mut engine, &now).map_err(|error| brief(&error))?;
        engine.set_execution_timer_config(timer());
        Ok(Self { engine, now })
    }
}

impl Compiled {
    fn evaluate(&self, input: Value) -> Result<Value, String> {
        let idle = held(&self.idle).pop();
        let mut machine = match idle {
            Some(machine) => machine,
            None => self.machine()?,
        };
        machine.set_input(input);
        let value = machine.execute_entry_point_by_index(0).map_err(|error| error.to_string())?;
        machine.set_input(Value::Undefined);
        keep(&self.idle, machine);
        Ok(value)
    }

    fn machine(&self) -> Result<RegoVM, String> {
        let mut machine = RegoVM::new_with_policy(self.policy.clone());
        machine.load_program(Arc::clone(&self.program));
        machine.set_data(self.data.clone()).map_err(|error| error.to_string())?;
        machine.set_max_instructions(STEP_LIMIT);
        machine.set_execution_timer_config(Some(timer()));
        Ok(machine)
    }
}

/// Whether no rule of `program` can have two values: each complete rule has one constant, or is
/// written once and loops over nothing; and no object is put together from what may clash.
fn is_consistent(program: &Program, only_true: &BTreeSet<String>) -> bool {
    let is_clashing = |instruction: &Instruction| match instruction {
        Instruction::HostAwait { .. } => true,
        Instruction::ComprehensionBegin { params_index } => program
            .instruction_data
            .get_comprehension_begin_params(*params_index)
            .is_none_or(|begin| matches!(begin.mode, ComprehensionMode::Object)),
        _ => false,
    };
    let loops = |start: &u32| {
        let start = usize::try_from(*start).unwrap_or_default();
        let body = program.instructions.iter().skip(start);
        body.take_while(|instruction| !matches!(instruction, Instruction::RuleReturn {}))
            .any(|instruction| matches!(instruction, Instruction::LoopStart { .. }))
    };
    !program.instructions.iter().any(is_clashing)
        && program.rule_infos.iter().all(|rule| match rule.rule_type {
            RuleType::PartialSet => true,
            RuleType::PartialObject => false,
            RuleType::Complete => {
                let bodies = || rule.definitions.iter().flatten();
                rule.early_exit_on_first_success
                    || only_true.contains(&rule.name)
                    || (rule.definitions.len() <= 1 && !bodies().any(loops))
            }
        })
}

fn timer() -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit: TIME_LIMIT, check_interval: STEPS_A_LOOK }
}

/// A panic while one of these is held leaves a list that is still good.
fn held<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep<T>(list: &Mutex<Vec<T>>, machine: T) {
    let mut idle = held(list);
    if idle.len() < IDLE_LIMIT {
        idle.push(machine);
    }
}

/// Regorus' error without the drawing of its place: `p.rego:3:9: the message`.
pub(super) fn brief(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim);
    let place = lines.clone().find_map(|line| line.strip_prefix("--> "));
    let message = lines.find_map(|line| line.strip_prefix("error: "));
    match (place, message) {
        (Some(place), Some(message)) => format!("{place}: {message}"),
        _ => text.replace(['\n', '\r'], " "),
    }
}
