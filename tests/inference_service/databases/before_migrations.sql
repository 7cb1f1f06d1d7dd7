-- A front end's database as the release before migrations made it (tables by create_all), with
-- five accounts, three versions of a model (0.9.0 withdrawn) and three sessions. The clinician's API key was:
-- ei-1a304b60-S167AdF3ZNuU7Zy-XimaVY7UAw6IKm3Nt83GK9MxDGw
BEGIN TRANSACTION;
CREATE TABLE accounts (
	id CHAR(32) NOT NULL, 
	role VARCHAR(32) NOT NULL, 
	organisation VARCHAR(64) NOT NULL, 
	prefix VARCHAR(16) NOT NULL, 
	key_sha256 BLOB NOT NULL, 
	created_at DATETIME NOT NULL, 
	revoked_at DATETIME, 
	PRIMARY KEY (id), 
	UNIQUE (prefix)
);
INSERT INTO "accounts" VALUES('cd849016574e4712b6f56ece785349fe','clinician','st-mary','1a304b60',X'9EED869CE7C843A30FFA974BF370AB75D83914D1A317E0907FF9EFDDA0F9E75D','2026-01-02 03:04:05.000000',NULL);
INSERT INTO "accounts" VALUES('2c51314948674ec39678712faed7b223','model-owner','north-lab','e88a0197',X'08BEAC398E4BD077FD46398066419001C3F449F5C3EFBF79FD3F0B1CC717BBF5','2026-01-02 03:04:05.000000',NULL);
INSERT INTO "accounts" VALUES('2912d1fdb4e34003a33d8d27a0605c47','crypto-provider','trust-centre','ee1a086e',X'0E6D895C12CEE1D16848780BCDC7510401EF1030BCDA56C31FA73D51680041A3','2026-01-02 03:04:05.000000',NULL);
INSERT INTO "accounts" VALUES('18ba707a87d847a69382ebfd57bbceec','operator','federation','40b5d6d3',X'1741BD301E73B914F31973217CDCB9788404EE18244D071102EE7C301E544538','2026-01-02 03:04:05.000000',NULL);
INSERT INTO "accounts" VALUES('9114ab181f6842fe9fbcb1e072aed18d','clinician','elsewhere','f7b5eb76',X'12D9200F32E730088E9F2C0D4A703B6FD5433C3C44851DFB00E46D01D4FF7857','2026-01-02 03:04:05.000000','2026-01-02 03:04:05.000000');
CREATE TABLE model_versions (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	card TEXT NOT NULL, 
	plan_hash VARCHAR(64) NOT NULL, 
	engines VARCHAR(200) NOT NULL, 
	model_owner VARCHAR(64) NOT NULL, 
	address VARCHAR(1024) NOT NULL, 
	crypto_provider VARCHAR(64) NOT NULL, 
	crypto_provider_address VARCHAR(1024) NOT NULL, 
	registered_at DATETIME NOT NULL, 
	withdrawn_at DATETIME, 
	PRIMARY KEY (id), 
	UNIQUE (name, version), 
	FOREIGN KEY(plan_hash) REFERENCES plans (sha256)
);
INSERT INTO "model_versions" VALUES(1,'resnet','1.0.0','{"name":"resnet","version":"1.0.0","title":"A test","intended_use":"tests","task":"classification","input":{"modalities":["DX"],"body_parts":[],"channels":1,"height":224,"width":224,"resize":"bilinear-squash","window":null,"frame":"only","colour":"refuse","mean":[0.5],"standard_deviation":[0.25]},"classes":["normal","bacteria","virus"],"calibration_temperature":1.0,"uncertain_below":null,"output_policy":"logits","metrics":[],"training":"none","citations":[],"model_sha256":"0000000000000000000000000000000000000000000000000000000000000000"}','80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310','crypten','north-lab','wss://inference.north-lab.example/session','trust-centre','wss://dealer.trust-centre.example','2026-01-02 03:04:05.000000',NULL);
INSERT INTO "model_versions" VALUES(2,'resnet','1.1.0','{"name":"resnet","version":"1.1.0","title":"A test","intended_use":"tests","task":"classification","input":{"modalities":["DX"],"body_parts":[],"channels":1,"height":224,"width":224,"resize":"bilinear-squash","window":null,"frame":"only","colour":"refuse","mean":[0.5],"standard_deviation":[0.25]},"classes":["normal","bacteria","virus"],"calibration_temperature":1.0,"uncertain_below":null,"output_policy":"logits","metrics":[],"training":"none","citations":[],"model_sha256":"0000000000000000000000000000000000000000000000000000000000000000"}','80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310','masked,crypten','north-lab','wss://inference.north-lab.example/session','trust-centre','wss://dealer.trust-centre.example','2026-01-02 03:04:05.000000',NULL);
INSERT INTO "model_versions" VALUES(3,'resnet','0.9.0','{"name":"resnet","version":"0.9.0","title":"A test","intended_use":"tests","task":"classification","input":{"modalities":["DX"],"body_parts":[],"channels":1,"height":224,"width":224,"resize":"bilinear-squash","window":null,"frame":"only","colour":"refuse","mean":[0.5],"standard_deviation":[0.25]},"classes":["normal","bacteria","virus"],"calibration_temperature":1.0,"uncertain_below":null,"output_policy":"logits","metrics":[],"training":"none","citations":[],"model_sha256":"0000000000000000000000000000000000000000000000000000000000000000"}','80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310','crypten','north-lab','wss://inference.north-lab.example/session','trust-centre','wss://dealer.trust-centre.example','2026-01-02 03:04:05.000000','2026-01-02 03:04:05.000000');
CREATE TABLE plans (
	sha256 VARCHAR(64) NOT NULL, 
	length INTEGER NOT NULL, 
	compressed BLOB NOT NULL, 
	PRIMARY KEY (sha256)
);
INSERT INTO "plans" VALUES('80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310',67,X'1F8B0800000000000003AB56CA2F482D4A2CC9CCCF2B56B25288564ACECF2B538AD55150CACB2F49058A28255596A4162B2416A52A64A716942824162B9464A4568204AC14140EAF54AA050092F41AC143000000');
CREATE TABLE session_events (
	id INTEGER NOT NULL, 
	session_id CHAR(32) NOT NULL, 
	event VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	account_id CHAR(32), 
	at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(session_id) REFERENCES sessions (id), 
	FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "session_events" VALUES(1,'5fa221098d254c078a62cdefce18a9ba','prepare','preparing','cd849016574e4712b6f56ece785349fe','2026-01-02 03:04:05.000000');
INSERT INTO "session_events" VALUES(2,'5fa221098d254c078a62cdefce18a9ba','run','running','cd849016574e4712b6f56ece785349fe','2026-01-02 03:04:05.000000');
INSERT INTO "session_events" VALUES(3,'5fa221098d254c078a62cdefce18a9ba','complete','completed','cd849016574e4712b6f56ece785349fe','2026-01-02 03:04:05.000000');
INSERT INTO "session_events" VALUES(4,'36f82ca6659041b3a11acdbe7b9baa91','fail','failed','cd849016574e4712b6f56ece785349fe','2026-01-02 03:04:05.000000');
CREATE TABLE sessions (
	id CHAR(32) NOT NULL, 
	account_id CHAR(32) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	purpose VARCHAR(16) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	plan_hash VARCHAR(64) NOT NULL, 
	engine VARCHAR(16) NOT NULL, 
	images INTEGER NOT NULL, 
	data_owner VARCHAR(64) NOT NULL, 
	model_owner VARCHAR(64) NOT NULL, 
	crypto_provider VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	report TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "sessions" VALUES('5fa221098d254c078a62cdefce18a9ba','cd849016574e4712b6f56ece785349fe','completed','diagnose','resnet','1.1.0','80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310','masked',3,'st-mary','north-lab','trust-centre','2026-01-02 03:04:05.000000','2026-01-02 03:19:05.000000','{"seconds":{"offline":3.1,"online":1.2},"bytes_sent":null,"failure":null}');
INSERT INTO "sessions" VALUES('36f82ca6659041b3a11acdbe7b9baa91','cd849016574e4712b6f56ece785349fe','failed','diagnose','resnet','1.0.0','80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310','crypten',1,'st-mary','north-lab','trust-centre','2026-01-02 03:04:05.000000','2026-01-02 03:19:05.000000','{"seconds":null,"bytes_sent":null,"failure":{"code":"transport","message":"the link broke: try again"}}');
INSERT INTO "sessions" VALUES('142b8f9eb0f74da3a9c3f486d77cea3c','cd849016574e4712b6f56ece785349fe','opened','prepare','resnet','1.1.0','80ca8c7b37d36f5e95fbd6683cce279cf934d3d9c124df18f315077255513310','masked',1,'st-mary','north-lab','trust-centre','2026-01-02 03:04:05.000000','2026-01-02 03:19:05.000000','{"seconds":null,"bytes_sent":null,"failure":null}');
CREATE INDEX ix_sessions_account_id ON sessions (account_id);
CREATE INDEX ix_sessions_state ON sessions (state);
CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);
CREATE INDEX ix_session_events_session_id ON session_events (session_id);
COMMIT;
