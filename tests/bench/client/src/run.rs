//! Carries out a plan.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::Fault;
use crate::answer::Judge;
use crate::connection::Connection;
use crate::crowd::Crowd;
use crate::draw::{Deck, Draw};
use crate::message::Writer;
use crate::plan::{Amount, Plan};
use crate::{load, pace};

/// In flight on each connection while a server is warmed up.
const WARMING_STREAMS: usize = 16;

pub(crate) fn run(plan: &str) -> Result<(), Fault> {
    let plan: Plan = serde_json::from_str(plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, carry_out(&plan))
}

async fn carry_out(plan: &Plan) -> Result<(), Fault> {
    let session = Rc::new(Session::open(plan).await?);
    let mut warming = session.deck.borrow_mut().warming()?.into_iter();
    load::send(&session, WARMING_STREAMS, move |_| Ok(warming.next())).await?;
    session.judge.borrow_mut().verify_sample()?;
    loop {
        session.judge.borrow_mut().begin();
        session.deck.borrow_mut().sign_ahead(plan.amount)?;
        println!("ready");
        if !is_told()? {
            return Err("nobody gave the word to begin".into());
        }
        let seen = send(&session, plan.amount).await?;
        println!("{seen}");
        if !is_told()? {
            return Ok(());
        }
    }
}

/// Sends as much as a plan says; what was seen of it.
async fn send(session: &Rc<Session>, amount: Amount) -> Result<Value, Fault> {
    let began = Instant::now();
    let paced = match amount {
        Amount::Requests { requests, streams } => {
            let mut numbers = 0..requests;
            let draw = move |deck: &mut Deck| numbers.next().map(|_| deck.draw()).transpose();
            load::send(session, streams, draw).await?;
            None
        }
        Amount::Seconds { seconds, streams } => {
            let ends = began + Duration::from_secs(seconds);
            let draw =
                move |deck: &mut Deck| (Instant::now() < ends).then(|| deck.draw()).transpose();
            load::send(session, streams, draw).await?;
            None
        }
        Amount::Rate { requests, rate } => Some(pace::send(session, requests, rate).await?),
    };
    let seconds = began.elapsed().as_secs_f64();
    let mut judge = session.judge.borrow_mut();
    let verified = judge.verify_sample()?;
    Ok(json!({
        "requests": judge.counts.judged, "anew": judge.counts.anew, "verified": verified,
        "seconds": seconds, "paced": paced,
    }))
}

/// Waits for a word from whoever started this; whether one came before the input's end.
fn is_told() -> Result<bool, Fault> {
    io::stdout().flush()?;
    Ok(io::stdin().read_line(&mut String::new())? > 0)
}

/// What the calls of a run share.
pub(crate) struct Session {
    pub(crate) connections: Vec<Connection>,
    pub(crate) deck: RefCell<Deck>,
    writer: Writer,
    judge: RefCell<Judge>,
}

impl Session {
    async fn open(plan: &Plan) -> Result<Self, Fault> {
        let mut connections = Vec::new();
        for _ in 0..plan.connections {
            connections.push(Connection::open(&plan.address).await?);
        }
        Ok(Self {
            connections,
            deck: RefCell::new(Deck::new(Crowd::read(&plan.crowd)?, plan)),
            writer: Writer::new(plan)?,
            judge: RefCell::new(Judge::new(plan)?),
        })
    }

    /// Asks on one of the connections, and judges the answer; when it came.
    pub(crate) async fn ask(&self, connection: usize, draw: &Draw) -> Result<Instant, Fault> {
        let call = self.writer.write(draw)?;
        let reply = self.connections[connection].call(call).await?;
        let came = Instant::now();
        self.judge.borrow_mut().judge(draw, &reply)?;
        Ok(came)
    }
}
