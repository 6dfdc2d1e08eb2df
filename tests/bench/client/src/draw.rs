//! Draws the requests of a run.

use std::rc::Rc;

use crate::Fault;
use crate::crowd::{self, Crowd, PATHS, SUBJECTS};
use crate::plan::{Amount, Credentials, Plan};
use crate::random::{Random, Zipf};

/// One request: who asks for what, and what makes it differ from all others.
pub(crate) struct Draw {
    pub(crate) subject: usize,
    pub(crate) path: usize,
    /// The token that is presented.
    pub(crate) credential: Option<Rc<str>>,
    /// Fill the request's ids, its address and its port.
    pub(crate) noise: [u64; 4],
}

/// Where the requests of a run come from.
pub(crate) struct Deck {
    crowd: Crowd,
    credentials: Credentials,
    /// The fixed set: subject and path; the often drawn ones are in it often.
    cards: Vec<(usize, usize)>,
    /// Subjects, each with a token that was signed before it is needed.
    ahead: Vec<(usize, Rc<str>)>,
    random: Random,
}

/// The same set in each run, so that a server meets again what it has seen.
const SEED: u64 = 1;

impl Deck {
    pub(crate) fn new(crowd: Crowd, plan: &Plan) -> Self {
        let mut random = Random::new(SEED);
        let (subjects, paths) = (Zipf::new(SUBJECTS), Zipf::new(PATHS));
        let cards =
            (0..plan.deck).map(|_| (subjects.draw(&mut random), paths.draw(&mut random))).collect();
        // From here on no run is like another.
        let random = Random::new(crowd::now() << 32 | u64::from(std::process::id()));
        Self { crowd, credentials: plan.credentials, cards, ahead: Vec::new(), random }
    }

    /// What a server has to see before it has seen everything; a few requests where nothing can be
    /// seen twice.
    pub(crate) fn warming(&mut self) -> Result<Vec<Draw>, Fault> {
        let mut cards = self.cards.clone();
        if self.credentials == Credentials::Fresh {
            cards.truncate(100);
        } else {
            cards.sort_unstable();
            cards.dedup();
        }
        cards.into_iter().map(|card| self.of(card)).collect()
    }

    /// Signs the fresh tokens of the whole run, if their number is known.
    pub(crate) fn sign_ahead(&mut self, amount: Amount) -> Result<(), Fault> {
        if self.credentials != Credentials::Fresh {
            return Ok(());
        }
        let count = match amount {
            Amount::Requests { requests, .. } | Amount::Rate { requests, .. } => requests,
            Amount::Seconds { .. } => 0,
        };
        for _ in 0..count {
            let (subject, _) = self.card();
            let token = self.sign(subject)?;
            self.ahead.push((subject, token));
        }
        Ok(())
    }

    pub(crate) fn draw(&mut self) -> Result<Draw, Fault> {
        let (subject, path) = self.card();
        match self.ahead.pop() {
            Some((subject, token)) => Ok(self.with(subject, path, Some(token))),
            None => self.of((subject, path)),
        }
    }

    fn card(&mut self) -> (usize, usize) {
        let number = self.random.below(self.cards.len());
        self.cards[number]
    }

    fn of(&mut self, (subject, path): (usize, usize)) -> Result<Draw, Fault> {
        let credential = match self.credentials {
            Credentials::Kept => Some(Rc::clone(&self.crowd.tokens[subject])),
            Credentials::Fresh => Some(self.sign(subject)?),
            Credentials::None => None,
        };
        Ok(self.with(subject, path, credential))
    }

    fn with(&mut self, subject: usize, path: usize, credential: Option<Rc<str>>) -> Draw {
        Draw { subject, path, credential, noise: std::array::from_fn(|_| self.random.next()) }
    }

    fn sign(&mut self, subject: usize) -> Result<Rc<str>, Fault> {
        let id = self.random.next();
        let token = self.crowd.issuer.token(&crowd::subject(subject), id, crowd::now())?;
        Ok(Rc::from(token))
    }
}
