package track

import (
	"strconv"
	"strings"

	"turnout/proxy"
)

// Problem says what is wrong with one field of an object, and what to do about it. The rest of the object is still used.
type Problem struct {
	// Service is the Service that is affected.
	Service proxy.ServiceName
	// Slice is the name of the EndpointSlice (in the namespace of the Service) that has the field; "" if the Service itself has.
	Slice string
	// Field is the path of the field, such as spec.externalIPs[1].
	Field string
	// Value is what the field says.
	Value string
	// Remedy says why the value is not used, and what would be.
	Remedy string
}

// String returns one line, such as `Service default/web: spec.externalIPs[1] "10.0.0": is not an IP address; …`.
func (p Problem) String() string {
	var b strings.Builder
	if p.Slice == "" {
		b.WriteString("Service " + p.Service.String())
	} else {
		b.WriteString("EndpointSlice " + p.Service.Namespace + "/" + p.Slice)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + " " + strconv.Quote(p.Value) + ": ")
	}
	b.WriteString(p.Remedy)
	return b.String()
}

// maxProblems bounds what one object can make the proxy remember and report.
const maxProblems = 16

// problems collects the Problems of one object.
type problems struct {
	service proxy.ServiceName
	slice   string
	found   []Problem
	more    int
}

func (p *problems) add(field, value, remedy string) {
	if len(p.found) == maxProblems {
		p.more++
		return
	}
	p.found = append(p.found, Problem{Service: p.service, Slice: p.slice, Field: field, Value: value, Remedy: remedy})
}

// list returns what was collected; the last entry tells how many were left out.
func (p *problems) list() []Problem {
	if p.more > 0 {
		p.found = append(p.found, Problem{Service: p.service, Slice: p.slice,
			Remedy: "has " + strconv.Itoa(p.more) + " more problems that are not listed; solve the listed ones first"})
		p.more = 0
	}
	return p.found
}

// at is the path of a list's element.
func at(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }
