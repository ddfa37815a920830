-- The schema of a SQLite log of version 2, as AgentGate 0.3 made it.
PRAGMA application_id = 1095188820;
PRAGMA user_version = 2;
CREATE TABLE events (
	log_id TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	event_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	session TEXT NOT NULL, 
	session_number INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	kill_position INTEGER NOT NULL, 
	leaf BLOB NOT NULL, 
	leaf_hash BLOB NOT NULL, 
	PRIMARY KEY (idx)
)
 STRICT;
CREATE UNIQUE INDEX events_id ON events (event_id);
CREATE INDEX events_policy ON events (log_id, idx) WHERE kind = 'policy';
CREATE UNIQUE INDEX events_session ON events (log_id, tenant, session, session_number) WHERE session <> '';
CREATE TABLE bodies (
	log_id TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	salt BLOB NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (idx)
)
 STRICT;
CREATE TABLE head (
	log_id TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	kill_position INTEGER NOT NULL, 
	open_from INTEGER NOT NULL, 
	PRIMARY KEY (log_id)
)
 STRICT;
CREATE TABLE checkpoints (
	log_id TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	root BLOB NOT NULL, 
	note BLOB NOT NULL, 
	frontier BLOB NOT NULL, 
	PRIMARY KEY (log_id, size)
)
 STRICT;
CREATE TABLE sessions (
	log_id TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	session TEXT NOT NULL, 
	principal TEXT NOT NULL, 
	first_at TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	PRIMARY KEY (log_id, tenant, session)
)
 STRICT;
CREATE TABLE spent (
	log_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	PRIMARY KEY (log_id, kind, "key")
)
 STRICT;
CREATE TABLE kills (
	log_id TEXT NOT NULL, 
	id TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	target TEXT NOT NULL, 
	reason TEXT, 
	actor TEXT NOT NULL, 
	since TEXT NOT NULL, 
	expires_at TEXT, 
	position INTEGER NOT NULL, 
	released_position INTEGER, 
	drained INTEGER NOT NULL, 
	receipt TEXT, 
	idx INTEGER NOT NULL, 
	PRIMARY KEY (log_id, id)
)
 STRICT;
CREATE INDEX kills_drained ON kills (log_id, drained, released_position);
CREATE INDEX kills_position ON kills (log_id, position);
CREATE INDEX kills_released ON kills (log_id, released_position);
CREATE TABLE approvals (
	log_id TEXT NOT NULL, 
	id TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	session TEXT NOT NULL, 
	requested_by TEXT NOT NULL, 
	tool TEXT NOT NULL, 
	trace_id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	policy_revision TEXT NOT NULL, 
	requested_at TEXT NOT NULL, 
	expires_at TEXT NOT NULL, 
	state TEXT NOT NULL, 
	decided_by TEXT, 
	token_sha256 TEXT, 
	sealed BLOB, 
	PRIMARY KEY (log_id, id)
)
 STRICT;
CREATE INDEX approvals_digest ON approvals (log_id, digest);
CREATE INDEX approvals_state ON approvals (log_id, state, requested_at);
CREATE TABLE members (
	log_id TEXT NOT NULL, 
	member TEXT NOT NULL, 
	joined_idx INTEGER NOT NULL, 
	left_idx INTEGER, 
	gone_idx INTEGER, 
	attested_idx INTEGER, 
	PRIMARY KEY (log_id, member)
)
 STRICT;
CREATE INDEX members_left ON members (log_id, left_idx);
CREATE TABLE acks (
	log_id TEXT NOT NULL, 
	member TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	cancelled INTEGER NOT NULL, 
	finished INTEGER NOT NULL, 
	unknown INTEGER NOT NULL, 
	took_us INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	PRIMARY KEY (log_id, member, position)
)
 STRICT;
CREATE INDEX acks_position ON acks (log_id, position);
CREATE TABLE release_asks (
	log_id TEXT NOT NULL, 
	kill_id TEXT NOT NULL, 
	person TEXT NOT NULL, 
	at TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	PRIMARY KEY (log_id, kill_id, person)
)
 STRICT;
CREATE TRIGGER events_next BEFORE INSERT ON events
       WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM events)
       BEGIN SELECT RAISE(ABORT, 'events are appended, one index after the other'); END;
CREATE TRIGGER events_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER bodies_once BEFORE INSERT ON bodies
       WHEN EXISTS (SELECT 1 FROM bodies WHERE idx = NEW.idx)
       BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END;
CREATE TRIGGER bodies_update BEFORE UPDATE ON bodies BEGIN SELECT RAISE(ABORT, 'bodies are written once'); END;
CREATE TRIGGER checkpoints_next BEFORE INSERT ON checkpoints
       WHEN NEW.size <= (SELECT coalesce(max(size), 0) FROM checkpoints WHERE log_id = NEW.log_id)
       BEGIN SELECT RAISE(ABORT, 'checkpoints only grow'); END;
CREATE TRIGGER checkpoints_update BEFORE UPDATE ON checkpoints
       BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;
CREATE TRIGGER checkpoints_delete BEFORE DELETE ON checkpoints
       BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;
INSERT INTO head VALUES ('0', 0, 0, 0);
