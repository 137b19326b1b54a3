package debug

import (
	"cmp"
	"mime"
	"slices"
	"strconv"
	"strings"
)

const zCurrent = "v1beta1"

// zForm is a form of a z-page. The version is empty for plain text.
type zForm struct {
	mediaType string
	version   string
}

// negotiate picks the form that the Accept headers prefer (RFC 9110, section 12.5.1), or reports that none will do. Plain
// text is what comes without a header, and for wildcards. The structured forms need the parameters g, v and as, as everywhere
// in the Kubernetes API.
func negotiate(accept []string, kind string) (zForm, bool) {
	header := strings.TrimSpace(strings.Join(accept, ","))
	if header == "" {
		return zForm{mediaType: "text/plain"}, true
	}
	for _, c := range parseAccept(header) {
		if c.quality == 0 {
			continue
		}
		_, structured := c.params["as"]
		switch c.mediaType {
		case "text/plain", "text/*", "*/*":
			if !structured {
				return zForm{mediaType: "text/plain"}, true
			}
		}
		if form, ok := c.structured(kind); ok {
			return form, true
		}
	}
	return zForm{}, false
}

type acceptClause struct {
	mediaType string
	params    map[string]string
	quality   float64
}

// parseAccept returns the clauses of a header, the preferred ones first. Clauses that are not valid are left out.
func parseAccept(header string) []acceptClause {
	var out []acceptClause
	for part := range strings.SplitSeq(header, ",") {
		mediaType, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		c := acceptClause{mediaType: mediaType, params: params, quality: 1}
		if q, ok := params["q"]; ok {
			if c.quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b acceptClause) int { return cmp.Compare(b.quality, a.quality) })
	return out
}

func (c *acceptClause) structured(kind string) (zForm, bool) {
	version := c.params["v"]
	if c.params["as"] != kind || c.params["g"] != zGroup || version != zCurrent && version != "v1alpha1" {
		return zForm{}, false
	}
	switch c.mediaType {
	case "application/json", "application/*", "*/*":
		return zForm{mediaType: "application/json", version: version}, true
	case "application/yaml":
		return zForm{mediaType: "application/yaml", version: version}, true
	}
	return zForm{}, false
}
