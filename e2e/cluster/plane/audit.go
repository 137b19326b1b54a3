package plane

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// auditPolicy has the API server write down every request of everybody but its own helpers, without contents.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [admin, "system:apiserver"]
- level: Metadata
`

// Request is what the API server wrote down of a request: watches at their begin, others when they were answered.
type Request struct {
	User           string
	Verb, Resource string
	Code           int
	// Credential tells certificates and tokens of the same user apart.
	Credential string
	At         time.Time
}

// Forbidden tells that the user lacks the right.
func (r Request) Forbidden() bool { return r.Code == http.StatusForbidden }

// String returns one line, such as "watch services: 200".
func (r Request) String() string { return fmt.Sprintf("%s %s: %d", r.Verb, r.Resource, r.Code) }

// auditEvent is the part of an audit.k8s.io/v1 Event that is of interest.
type auditEvent struct {
	Verb string
	User struct {
		Username string
		Extra    map[string][]string
	}
	ObjectRef                struct{ Resource, Subresource string }
	ResponseStatus           struct{ Code int }
	RequestReceivedTimestamp time.Time
	RequestURI               string
}

// credentialKey is where the API server notes by which certificate or token a user was known.
const credentialKey = "authentication.kubernetes.io/credential-id"

// Requests returns the requests of a user so far, in the order of the audit log.
func (p *Plane) Requests(user string) ([]Request, error) {
	file, err := os.Open(p.Path("audit.log"))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	defer file.Close()
	var out []Request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line may be half written
		}
		if e.User.Username == user {
			out = append(out, e.request())
		}
	}
	return out, lines.Err()
}

func (e *auditEvent) request() Request {
	resource := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		resource += "/" + e.ObjectRef.Subresource
	}
	if resource == "" {
		resource = e.RequestURI
	}
	r := Request{User: e.User.Username, Verb: e.Verb, Resource: resource, Code: e.ResponseStatus.Code, At: e.RequestReceivedTimestamp}
	if ids := e.User.Extra[credentialKey]; len(ids) > 0 {
		r.Credential = ids[0]
	}
	return r
}
