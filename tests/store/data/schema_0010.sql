-- key: mk-sxz69hEsymghIeKkABpQFddhpueR2Ne2bRxEGkeNFDL
BEGIN TRANSACTION;
CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    parent_id INTEGER REFERENCES api_keys (id) ON DELETE SET NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    key_hash TEXT UNIQUE NOT NULL,
    scopes TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL,
    last_used_at REAL,
    use_count INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "api_keys" VALUES(1,'key_vfavPax2lwe3qzXUTwsM',5,NULL,'test','mk-sxz69hEs','dbd65ab66aa3fa546b46656a644509321b20740bf39663963ae583e0f0771f4e','["tasks:read"]',1800000000.0,NULL,NULL,NULL,0);
CREATE TABLE login_networks (
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    last_at REAL NOT NULL,
    PRIMARY KEY (user_id, network)
) WITHOUT ROWID;
INSERT INTO "login_networks" VALUES(5,'192.0.2.7',1800000000.0);
CREATE TABLE model_probes (
    model_id INTEGER PRIMARY KEY REFERENCES models (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    threads INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    prefill_tokens_per_second REAL,
    decode_tokens_per_second REAL,
    memory_bytes INTEGER NOT NULL,
    load_seconds REAL NOT NULL,
    measured_at REAL NOT NULL
, row_costs TEXT NOT NULL DEFAULT '[]');
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    alias TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    in_place INTEGER NOT NULL CHECK (in_place IN (0, 1)),
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    architecture TEXT NOT NULL,
    parameters INTEGER NOT NULL,
    context_tokens INTEGER NOT NULL,
    quantization TEXT NOT NULL,
    source TEXT NOT NULL,
    is_default INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    created_at REAL NOT NULL
, kv_bytes_per_token INTEGER NOT NULL DEFAULT 0, embeds INTEGER NOT NULL DEFAULT 0 CHECK (embeds IN (0, 1)), fills_in INTEGER NOT NULL DEFAULT 0 CHECK (fills_in IN (0, 1)), checked_mtime_ns INTEGER NOT NULL DEFAULT 0);
CREATE TABLE rate_events (
    id INTEGER PRIMARY KEY,
    window TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE refresh_tokens (
    id INTEGER PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    token_hash TEXT UNIQUE NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    used_at REAL
);
INSERT INTO "refresh_tokens" VALUES(1,1,'076b346e8d54e0021e18f6d7ced896ffe973fa076b05e783991bcb482b76710a',1800000000.0,1802592000.0,NULL);
CREATE TABLE schema_migrations (
    name TEXT PRIMARY KEY,
    checksum TEXT NOT NULL,
    applied_at REAL NOT NULL,
    program_version TEXT NOT NULL
);
INSERT INTO "schema_migrations" VALUES('0001_accounts','b17056ab978a2672788f8836f235b2c1fedf7dace6ad93c6ca787f8352caf4e7',1.79611112243839263916e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0002_tasks','ab45d32e2b2a65b13e53b60317d0ab94b988631b612aa1ab84bcc1e4f35dc0dd',1.79611112245181012156e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0003_models','ff1033b6f33ac7dfe4afd85d178219c5bfdc8316752fe76d51789905980ac59d',1.7961111224523472786e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0004_usage','62c9d6e852b296cf826b1298602e6084a2a965b56675d997fee02cad24494d07',1.79611112245585560799e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0005_model_probes','26d7d989dea9998afe17a3b0b1e2e7ff6c58592c2babbf2c77eaf919b6fa3393',1.79611112246003127093e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0006_row_costs','e0ef70b1efe0e29bcbbfecd5237fcc58277150606bd3e20d680968b3e5ef74a2',1.79611112247385883329e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0007_user_plan','15cd1cc2e768cae2a4a198f07a11ca475bbe48d3488ac48fbbb158845380f75e',1.79611112248769640925e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0008_write_probe','8a65629e5faa1f8846fe471a65c64990d35803d48532fb38c7b828cf8221a501',1.79611112249160838122e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0009_rate_windows','f5d5920fb05d6735e894c210bf30138066f51b1ae848275b6f6b02e0a2cf483b',1.79611112249949097631e+09,'0.1.0');
INSERT INTO "schema_migrations" VALUES('0010_task_storage','0027387d566f4f5aea5e4ed1aad6700a0b887d7c5737da55782ba0ad4d9759f4',1.79611112250917816157e+09,'0.1.0');
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    revoked_at REAL
);
INSERT INTO "sessions" VALUES(1,'ses_7EWja0ZxxAbpH2RmVzeF',5,1800000000.0,1802592000.0,NULL);
CREATE TABLE task_events (
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    seq INTEGER NOT NULL CHECK (seq > 0),
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (task_id, seq)
) WITHOUT ROWID;
INSERT INTO "task_events" VALUES(1,1,1.79611112255243754389e+09,'accepted','{}');
INSERT INTO "task_events" VALUES(1,2,1.79611112255538892751e+09,'started','{"attempt":1}');
INSERT INTO "task_events" VALUES(1,3,1.79611112257135653496e+09,'progress','{"message":"working"}');
INSERT INTO "task_events" VALUES(1,4,1.79611112257520604135e+09,'completed','{}');
INSERT INTO "task_events" VALUES(2,1,1.79611112257990217211e+09,'accepted','{}');
INSERT INTO "task_events" VALUES(2,2,1.79611112258725380899e+09,'started','{"attempt":1}');
INSERT INTO "task_events" VALUES(2,3,1.79611112259129810332e+09,'progress','{"message":"working"}');
INSERT INTO "task_events" VALUES(2,4,1.79611112259451222421e+09,'failed','{"code":"VALIDATION_ERROR","message":"no such language","details":{"field":"language"}}');
INSERT INTO "task_events" VALUES(3,1,1.7961111226007711887e+09,'accepted','{}');
INSERT INTO "task_events" VALUES(3,2,1.79611112260719203953e+09,'started','{"attempt":1}');
INSERT INTO "task_events" VALUES(3,3,1.7961111226123125553e+09,'progress','{"message":"working"}');
INSERT INTO "task_events" VALUES(3,4,1.7961111226144380569e+09,'code','{"content":"print(1)"}');
INSERT INTO "task_events" VALUES(4,1,1.7961111226192595959e+09,'accepted','{}');
INSERT INTO "task_events" VALUES(5,1,1.79611112262745285035e+09,'accepted','{}');
INSERT INTO "task_events" VALUES(5,2,1796111122.62927,'cancelled','{}');
CREATE TABLE task_turns (
    user_id INTEGER NOT NULL REFERENCES users (id),
    priority INTEGER NOT NULL,
    last_at REAL NOT NULL,
    PRIMARY KEY (user_id, priority)
) WITHOUT ROWID;
INSERT INTO "task_turns" VALUES(1,1,1.79611112260719203953e+09);
INSERT INTO "task_turns" VALUES(2,1,1.79611112258725380899e+09);
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    public_id TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id),
    status TEXT NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    -- 0 interactive, 1 normal, 2 batch
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 2),
    attempt INTEGER NOT NULL DEFAULT 0,
    -- how often the box died while this task ran
    interruptions INTEGER NOT NULL DEFAULT 0,
    -- how long one attempt may take, if the caller said so
    timeout_s REAL CHECK (timeout_s > 0),
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    deadline_at REAL,
    request_hash TEXT NOT NULL,
    -- JSON; the large columns stand last, so that the others are read without them
    failure TEXT,
    request TEXT NOT NULL,
    sources TEXT NOT NULL,
    result TEXT,
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CHECK ((status IN ('queued', 'running')) = (finished_at IS NULL)),
    CHECK (status <> 'running' OR (started_at IS NOT NULL AND deadline_at IS NOT NULL))
);
INSERT INTO "tasks" VALUES(1,'completed',1,'completed',1,1,0,NULL,1.79611112255243754389e+09,1.79611112257520604135e+09,1.79611112255538892751e+09,1.79611112257520604135e+09,1.7961117225553889275e+09,'9ac9961d7c94d6a608d57a1c00c0e2b807f520b8d54373b2d6abd00bda7c6d8d',NULL,'{"prompt":"write it","task_type":"code_generation","persona":null,"instructions":"","files":[],"tests":[],"context":{},"provider":null,"model":null,"branches":null,"strategy":"weighted_average","temperature":null,"seed":null,"max_tokens":null,"timeout_s":null,"client_task_id":"completed","priority":"normal","labels":["a-repo"]}',X'966D000000000000785EEDDD310AC2500C06E0AB94CC45702D7812ED20E56985F25A6806A5F4EED553B87C53206348FE6FCC168FD754D6E8AE5B2CF71CA38B69AECFD3F2893686B966A9F9EDBD9B4B73BE55C5086C81439005E2900834A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948431AD2908634A4210D6948C3BF6B187BDF4696357F9FD8FAFD0032EB59B0','{"text":"done","code":"print(1)","explanation":"","language":"python","files":[],"tests":null,"verification":{"level":"none","passed":0,"failed":0,"score":null,"summary":"","output":"","isolation":null,"wall_s":0.0},"branches":[],"chosen":null,"provider":"none","model":"none","usage":{"prompt_tokens":1,"completion_tokens":2,"cached_tokens":0,"drafted_tokens":0,"accepted_tokens":0,"reasoning_tokens":0},"generation_s":0.0,"warnings":[],"persona":null,"usage_by_model":[]}');
INSERT INTO "tasks" VALUES(2,'failed',2,'failed',1,1,0,NULL,1.79611112257990217211e+09,1.79611112259451222421e+09,1.79611112258725380899e+09,1.79611112259451222421e+09,1.79611172258725380898e+09,'d9d1c853491d2385aabd4362dd062474881d6ef76e38e56d9b3db42a0c0dcfef','{"code":"VALIDATION_ERROR","message":"no such language","details":{"field":"language"}}','{"prompt":"fail","task_type":"code_generation","persona":null,"instructions":"","files":[],"tests":[],"context":{},"provider":null,"model":null,"branches":null,"strategy":"weighted_average","temperature":null,"seed":null,"max_tokens":null,"timeout_s":null,"client_task_id":"failed","priority":"normal","labels":[]}','{"files":[],"tests":[]}',NULL);
INSERT INTO "tasks" VALUES(3,'running',1,'running',1,1,0,NULL,1.7961111226007711887e+09,1.79611112260719203953e+09,1.79611112260719203953e+09,NULL,1.79611172260719203943e+09,'d201895a9dc50ea192ec7cdf3577807b1eec7412e6482e2a53dc944c9704699b',NULL,'{"prompt":"stay","task_type":"code_generation","persona":null,"instructions":"","files":[],"tests":[],"context":{},"provider":null,"model":null,"branches":null,"strategy":"weighted_average","temperature":null,"seed":null,"max_tokens":null,"timeout_s":null,"client_task_id":"running","priority":"normal","labels":[]}','{"files":[],"tests":[]}',NULL);
INSERT INTO "tasks" VALUES(4,'queued',1,'queued',1,0,0,NULL,1.7961111226192595959e+09,1.7961111226192595959e+09,NULL,NULL,NULL,'a5651cfe7db960407389ff53e3b1665f73238dc934269e8f0724c9038736253c',NULL,'{"prompt":"write it","task_type":"code_generation","persona":null,"instructions":"","files":[],"tests":[],"context":{},"provider":null,"model":null,"branches":null,"strategy":"weighted_average","temperature":null,"seed":null,"max_tokens":null,"timeout_s":null,"client_task_id":"queued","priority":"normal","labels":[]}','{"files":[],"tests":[]}',NULL);
INSERT INTO "tasks" VALUES(5,'cancelled',2,'cancelled',1,0,0,NULL,1.79611112262745285035e+09,1796111122.62927,NULL,1796111122.62927,NULL,'fe913edde7900c53276ce3c675afecbfc50de0618fecd2a1442de878addf74fd',NULL,'{"prompt":"write it","task_type":"code_generation","persona":null,"instructions":"","files":[],"tests":[],"context":{},"provider":null,"model":null,"branches":null,"strategy":"weighted_average","temperature":null,"seed":null,"max_tokens":null,"timeout_s":null,"client_task_id":"cancelled","priority":"normal","labels":[]}','{"files":[],"tests":[]}',NULL);
CREATE TABLE usage_records (
    id INTEGER PRIMARY KEY,
    user_id INTEGER,
    key_id INTEGER,
    kind TEXT NOT NULL CHECK (kind IN ('chat', 'task', 'embedding')),
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL CHECK (
        status IN ('reserved', 'completed', 'failed', 'cancelled', 'interrupted')
    ),
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    exact INTEGER NOT NULL DEFAULT 0 CHECK (exact IN (0, 1)),
    reserved_cost REAL,
    cost REAL,
    seconds REAL,
    started_at REAL NOT NULL,
    CHECK ((status = 'reserved') = (seconds IS NULL))
);
INSERT INTO "usage_records" VALUES(1,1,NULL,'chat','far','m','completed',10,5,0,1,20.0,20.0,1.59740447998046875e-05,1.79611112266729950909e+09);
INSERT INTO "usage_records" VALUES(2,1,NULL,'task','far','m','reserved',0,0,0,0,20.0,NULL,NULL,1.79611112266732048992e+09);
CREATE TABLE user_storage (
    user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    bytes INTEGER NOT NULL
);
INSERT INTO "user_storage" VALUES(1,1828);
INSERT INTO "user_storage" VALUES(2,895);
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    public_id TEXT UNIQUE NOT NULL,
    username TEXT UNIQUE NOT NULL,
    email TEXT UNIQUE NOT NULL,
    name TEXT NOT NULL,
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('admin', 'developer', 'viewer', 'api_user')),
    disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
, plan TEXT NOT NULL DEFAULT 'free');
INSERT INTO "users" VALUES(1,'user_alice','alice','alice@example.com','alice',NULL,'developer',0,1.79611112253404855724e+09,1.79611112253404855724e+09,'free');
INSERT INTO "users" VALUES(2,'user_bob','bob','bob@example.com','bob',NULL,'developer',0,1.79611112253451347346e+09,1.79611112253451347346e+09,'free');
INSERT INTO "users" VALUES(3,'user_root','root','root@example.com','root',NULL,'admin',0,1.79611112253462266918e+09,1.79611112253462266918e+09,'free');
INSERT INTO "users" VALUES(4,'user_vera','vera','vera@example.com','vera',NULL,'viewer',0,1.79611112253469729421e+09,1.79611112253469729421e+09,'free');
INSERT INTO "users" VALUES(5,'user_dxlEa8gj57NTAzxrvCWx','carol','carol@example.com','Carol','$argon2id$v=19$m=8,t=1,p=1$K+TElnQlNyFv5xqK3M8P8A$6XLSj/JAZLvNvZ8Mrr/gdqiC2kk+EzgdNRV11fa7zgM','developer',0,1800000000.0,1800000000.0,'free');
CREATE TABLE write_probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at REAL NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE UNIQUE INDEX refresh_tokens_unused ON refresh_tokens (session_id) WHERE used_at IS NULL;
CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);
CREATE INDEX api_keys_of_user ON api_keys (user_id, created_at);
CREATE INDEX api_keys_of_parent ON api_keys (parent_id);
CREATE UNIQUE INDEX tasks_by_name ON tasks (public_id, user_id);
CREATE INDEX tasks_by_user ON tasks (user_id, id);
CREATE INDEX tasks_by_user_and_status ON tasks (user_id, status, id);
CREATE INDEX tasks_queued ON tasks (status, user_id, priority, id) WHERE status = 'queued';
CREATE INDEX tasks_running ON tasks (status, user_id) WHERE status = 'running';
CREATE TRIGGER tasks_end_once BEFORE UPDATE OF status ON tasks
WHEN OLD.status IN ('completed', 'failed', 'cancelled') BEGIN
    SELECT RAISE(ABORT, 'a task that has ended keeps its status');
END;
CREATE UNIQUE INDEX task_events_one_end ON task_events (task_id)
WHERE kind IN ('completed', 'failed', 'cancelled');
CREATE UNIQUE INDEX models_one_default ON models (is_default) WHERE is_default = 1;
CREATE INDEX usage_records_of_user ON usage_records (user_id, started_at);
CREATE INDEX usage_records_by_time ON usage_records (started_at);
CREATE INDEX usage_records_reserved ON usage_records (status) WHERE status = 'reserved';
CREATE INDEX rate_events_by_key ON rate_events (window, key_hash, at);
CREATE INDEX rate_events_by_time ON rate_events (window, at);
CREATE INDEX tasks_by_end ON tasks (status, finished_at) WHERE finished_at IS NOT NULL;
CREATE TRIGGER tasks_stored AFTER INSERT ON tasks BEGIN
    INSERT INTO user_storage (user_id, bytes)
    VALUES (
        NEW.user_id, LENGTH(CAST(NEW.request AS BLOB)) + LENGTH(CAST(NEW.sources AS BLOB))
    )
    ON CONFLICT (user_id) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER tasks_stored_end AFTER UPDATE OF result, failure ON tasks BEGIN
    UPDATE user_storage SET bytes = bytes
        + LENGTH(CAST(COALESCE(NEW.result, '') AS BLOB))
        + LENGTH(CAST(COALESCE(NEW.failure, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.result, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.failure, '') AS BLOB))
    WHERE user_id = NEW.user_id;
END;
CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN
    UPDATE user_storage SET bytes = bytes
        - LENGTH(CAST(OLD.request AS BLOB)) - LENGTH(CAST(OLD.sources AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.result, '') AS BLOB))
        - LENGTH(CAST(COALESCE(OLD.failure, '') AS BLOB))
    WHERE user_id = OLD.user_id;
END;
CREATE TRIGGER task_events_stored AFTER INSERT ON task_events BEGIN
    UPDATE user_storage SET bytes = bytes + LENGTH(CAST(NEW.data AS BLOB))
    WHERE user_id = (SELECT user_id FROM tasks WHERE id = NEW.task_id);
END;
CREATE TRIGGER task_events_deleted AFTER DELETE ON task_events BEGIN
    UPDATE user_storage SET bytes = bytes - LENGTH(CAST(OLD.data AS BLOB))
    WHERE user_id = (SELECT user_id FROM tasks WHERE id = OLD.task_id);
END;
COMMIT;
