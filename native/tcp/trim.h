// Segments are cut to what lwIP 2.1.3 handles well before it sees them.
#pragma once
#include "wire/packet.h"

struct tcp_pcb;

namespace tcp {

/// For a segment out of order. lwIP does not trim the first that it keeps: what lies behind the
/// window would later be counted below zero (RFC 9293 section 3.10.7.4 has it trimmed).
void trim_to_window(const tcp_pcb& pcb, wire::SegmentView& segment);

/// For a connection with segments kept out of order. Behind a FIN among them there is nothing. lwIP
/// would move the FIN to the end of what overlaps it, by one number past the window. Such a FIN is
/// the last that is kept: lwIP drops what it had behind it, and this what comes later.
void trim_to_kept_fin(const tcp_pcb& pcb, wire::SegmentView& segment);

}  // namespace tcp
